"""Files of arrays, NumPy's .npy and .npz, which may come from a stranger: read without pickles.

An .npy is one array: a head that tells its shape and type, then its values. An .npz is a zip archive of them. The heads
alone tell what a file holds, so that only what is wanted is unpacked, and nothing that announces more than fits.
"""

import io
import math
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from diffusion.system.errors import brief
from diffusion.system.untrusted import MEMORY_LIMIT, Damaged, entries, unpacked

MAGIC = b"\x93NUMPY"
LONGEST_HEAD = 2**16  # bytes


class Head(NamedTuple):
    """What the head of an array tells.

    Args:
        shape: of the array.
        dtype: of its values.
        fortran: its first index runs fastest in the file.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool = False


def array_heads(path: Path) -> dict[str, Head]:
    """The heads of the arrays of an .npz file by their names; of an .npy file, of the one that has no name ("").

    Raises:
        FileNotFoundError, and ValueError (`Damaged` where the file was not written so) with the reason.
    """
    if is_npy(path):
        with open(path, "rb") as file:
            return {"": read_head(io.BytesIO(file.read(LONGEST_HEAD)))}
    heads = {}
    with_names = {name.removesuffix(".npy"): info for name, info in entries(path).items() if name.endswith(".npy")}
    with zipfile.ZipFile(path) as archive:
        for name, info in with_names.items():
            try:
                with archive.open(info) as file:
                    heads[name] = read_head(io.BytesIO(file.read(LONGEST_HEAD)))
            except Exception as error:  # zlib, NumPy and Python raise many kinds
                raise ValueError(f"its array {name} cannot be read ({brief(error, 80)})") from error
    return heads


def read_npy(path: Path, limit: int | None = None) -> np.ndarray:
    """The array of an .npy file; limit and errors as of `read_arrays`."""
    size = path.stat().st_size
    check_size(size, limit)
    with open(path, "rb") as file:
        return read_array(file, size)


def read_arrays(path: Path, wanted: Collection[str] | None = None, limit: int | None = None) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, without pickles.

    Args:
        path: the file.
        wanted: names of those to read; None reads all.
        limit: bytes that they may take; None is `MEMORY_LIMIT`.

    Raises:
        FileNotFoundError, and ValueError (`Damaged` where the file was not written so) with the reason.
    """
    found = {name.removesuffix(".npy"): info for name, info in entries(path).items()}
    found = {name: info for name, info in found.items() if wanted is None or name in wanted}
    check_size(unpacked(found), limit)
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for name, info in found.items():
            try:
                with archive.open(info) as file:
                    arrays[name] = read_array(file, info.file_size)
            except (zipfile.BadZipFile, EOFError, OSError) as error:
                raise Damaged(f"its array {name} does not match its checksum") from error
            except Exception as error:  # zlib, NumPy and Python raise many kinds
                raise ValueError(f"its array {name} cannot be read ({brief(error, 80)})") from error
    return arrays


def read_array(file: IO[bytes], size: int) -> np.ndarray:
    """An array in the format of .npy, of a file of so many bytes, whose head announces exactly what follows."""
    shape, dtype, fortran = read_head(file)
    if dtype.hasobject:
        raise ValueError("it holds pickled objects")
    left = size - file.tell()
    if any(side < 0 for side in shape) or math.prod(shape) * dtype.itemsize != left:
        raise ValueError(f"it announces {shape} values of {dtype}, but holds {left:,} bytes")
    content, filled = np.empty(left, np.uint8), 0
    while filled < left and (chunk := file.read(min(left - filled, 2**24))):
        content[filled : filled + len(chunk)] = np.frombuffer(chunk, np.uint8)
        filled += len(chunk)
    if filled < left or file.read(1):  # which also compares the checksum
        raise ValueError(f"it holds {filled:,} bytes of {left:,}")
    return content.view(dtype).reshape(shape, order="F" if fortran else "C")


def read_head(file: IO[bytes]) -> Head:
    """The head of an array in the format of .npy, up to where its values begin."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of the format")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    return Head(shape, dtype, fortran)


def is_npy(path: Path) -> bool:
    """Whether a file begins as an .npy does."""
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def check_size(size: int, limit: int | None = None) -> None:
    """Raise `ValueError` where arrays of so many bytes are too large; arguments as in `read_arrays`."""
    limit = MEMORY_LIMIT if limit is None else limit
    if size > limit:
        needed, most = size / 2**30, limit / 2**30
        raise ValueError(f"its arrays would take {needed:,.1f} GiB; at most {most:.1f} are read at once")

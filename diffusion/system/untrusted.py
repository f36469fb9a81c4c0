"""Files that may come from a stranger, looked through before anything is made of them.

PyTorch's and NumPy's files are zip archives. What they announce (names, sizes, what a pickle calls) is compared with
what they hold first, so that a hostile file runs no code, is found out quickly, and gets none of the memory it asks
for. Every entry carries a checksum (CRC-32), which is how a file that was damaged on the way is noticed.

An archive is read by more than one program here (Python's zipfile and PyTorch's own reader), so those are refused that
they could take for different ones, and the pickle that is looked through is the one that PyTorch's reader finds.
"""

import json
import math
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffusion.system.device import physical_memory

if TYPE_CHECKING:
    from PIL import Image

# What a pickle of plain containers and tensors names; `torch.load(weights_only=True)` would allow some more.
NAMES = {"collections OrderedDict"} | {f"torch._utils _rebuild_{kind}" for kind in ("tensor", "tensor_v2", "parameter")}
STORAGES = {f"torch {kind}Storage" for kind in "Bool Byte Char Short Int Long Half Float Double BFloat16".split()}
NAMING = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}  # other ways to name code
MEMORY_LIMIT = int(min(4 * 2**30, physical_memory() / 4))  # bytes of unpacked arrays
PICKLE_LIMIT = 16 * 2**20  # bytes of a checkpoint's pickle, which holds no tensors
OPERATIONS, TUPLES = 2_000_000, 40_000  # of a pickle; Python runs out of stack in tuples nested more deeply
DEPTH, VALUES = 50, 1_000_000  # of containers inside containers, and of all values
TEXT, TEXTS = 10_000, 1_000_000  # characters of one text of a config, and of all of them
PIXELS = 110_000_000  # of an image file: those of large cameras
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM")  # Pillow also knows some that start other programs

BROKEN = "it is no whole archive"


class Damaged(ValueError):
    """A file that was changed or cut short after it was written."""


def entries(path: Path) -> dict[str, zipfile.ZipInfo]:
    """The entries of a zip archive by name, none of which leads out of the archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = archive.infolist()
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile raises several kinds for damaged archives
        raise Damaged(BROKEN) from error
    for info in found:
        name = PurePosixPath(info.filename.replace("\\", "/"))
        if not name.parts or name.is_absolute() or ".." in name.parts or ":" in name.parts[0]:
            raise ValueError(f"its entry {info.filename!r} leads out of the archive")
    if len({info.filename for info in found}) < len(found):
        raise ValueError("it has two entries of one name")
    return {info.filename: info for info in found}


def check_end(path: Path) -> None:
    """Raise `Damaged` unless an archive ends with its directory, where it says it is: one that all readers find."""
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 98))
        tail = file.read()
    end = tail[-22:]
    if end[:4] != b"PK\5\6" or end[20:] != b"\0\0":
        raise Damaged(BROKEN)
    length, start = struct.unpack("<LL", end[12:20])
    place = size - 22
    if tail[-42:-38] == b"PK\6\7":  # with 64 bits, as PyTorch writes it
        (place,) = struct.unpack("<Q", tail[-34:-26])
        if place != size - 98 or tail[:4] != b"PK\6\6":
            raise Damaged(BROKEN)
        length, start = struct.unpack("<QQ", tail[40:56])
    if start + length != place:
        raise Damaged(BROKEN)


def check_sums(path: Path) -> None:
    """Raise `Damaged` unless every entry of an archive matches its checksum."""
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
    except Exception as error:  # of many kinds, for what stands between the entries
        raise Damaged(BROKEN) from error
    if wrong is not None:
        raise Damaged(f"its part {wrong} does not match its checksum")


def read_torch(path: Path) -> Any:
    """What `torch.save` wrote, on the CPU: containers, numbers, texts and tensors, no more than the file can hold.

    Raises:
        FileNotFoundError, and ValueError (`Damaged` where the file was not written so) with the reason.
    """
    size, found = path.stat().st_size, entries(path)
    check_end(path)
    if len({name.casefold() for name in found}) < len(found):  # PyTorch's reader takes a for A
        raise ValueError("it has two entries of one name")
    # PyTorch never compresses: what an entry takes in memory it also takes in the file.
    if any(info.compress_type != zipfile.ZIP_STORED for info in found.values()) or unpacked(found) > size:
        raise ValueError("its entries announce more than it holds")
    check_sums(path)
    pickles = [info for name, info in found.items() if name.endswith("data.pkl")]
    if len(pickles) != 1 or pickles[0].file_size > PICKLE_LIMIT:
        raise ValueError("it holds no data.pkl of PyTorch")
    try:
        check_names(torch._C.PyTorchFileReader(str(path)).get_record("data.pkl"))
        # Memory-mapped, a tensor that announces more than its entry has is refused instead of read past its end.
        loaded = torch.load(path, "cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise ValueError("PyTorch cannot read it") from error
    return owned(loaded, size)


def read_old_torch(path: Path) -> Any:
    """What `torch.save` wrote before PyTorch 1.6: pickles one after the other, then the numbers."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        if file.read(2) == b"PK":  # an archive after all, for PyTorch
            raise Damaged(BROKEN)
        file.seek(0)
        for part in range(5):  # a magic number, the version, the system, the object, and the keys of its storages
            content = file.read(PICKLE_LIMIT)
            length = check_names(content, largest=None if part == 0 else max(size, 2**20))
            file.seek(length - len(content), 1)
    return owned(torch.load(path, "cpu", weights_only=True), size)


def check_names(content: bytes, largest: int | None = None) -> int:
    """Raise `ValueError` when a pickle names anything but what tensors are made of.

    Args:
        content: the pickle, and perhaps more behind it.
        largest: number that it may hold, since those are sizes; None is any.

    Returns:
        its length in bytes.
    """
    tuples, place = 0, 0
    for number, (operation, argument, found) in enumerate(pickletools.genops(content)):
        place = found or 0
        if largest is not None and isinstance(argument, int) and argument > largest:
            raise ValueError("it announces more than it holds")
        tuples += operation.name.startswith("TUPLE")
        if number > OPERATIONS or tuples > TUPLES:
            raise ValueError("it holds more than any checkpoint")
        if operation.name in NAMING or (operation.name == "GLOBAL" and argument not in NAMES | STORAGES):
            raise ValueError(f"it names code that a checkpoint does not need ({argument or operation.name})")
    return place + 1


def owned(value: Any, size: int) -> Any:
    """A copy of what was read from a file of `size` bytes: tensors in memory, containers as dict, list and tuple.

    Tensors that are one in the file are one in the copy, so it takes no more memory than the file.
    """
    seen, taken = 0, 0
    copies: dict[tuple, Tensor] = {}

    def copy(value: Any, depth: int) -> Any:
        nonlocal seen, taken
        seen += 1
        if seen > VALUES or depth > DEPTH:
            raise ValueError("it is nested deeper, or holds more, than any checkpoint")
        if isinstance(value, Tensor):
            if value.layout != torch.strided or value.device.type != "cpu":
                raise ValueError("one of its tensors is of an unusual kind")
            key = (value.data_ptr(), value.dtype, value.shape, value.stride())
            if key not in copies or not value.numel():
                taken += value.nbytes
                if value.nbytes > value.untyped_storage().nbytes() or taken > size:
                    raise ValueError("its tensors announce more than the file holds")
                copies[key] = value.detach().clone()
            return copies[key]
        if isinstance(value, dict):
            return {key: copy(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(copy(item, depth + 1) for item in value)
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise ValueError(f"it holds a {type(value).__name__}")

    return copy(value, 0)


def check_settings(value: Any) -> None:
    """Raise `ValueError` unless a config from a file is plain: resolved, of bounded depth and size."""
    texts = 0
    for seen, (part, depth) in enumerate(parts(value)):
        text = part if isinstance(part, str) else ""
        texts += len(text)
        if texts > TEXTS or len(text) > TEXT:
            raise ValueError("its config holds longer texts than any that train.py writes")
        if seen >= 10_000 or depth > 20:
            raise ValueError("its config is nested deeper, or holds more, than any that train.py writes")
        if "${" in text:
            raise ValueError(f"its config holds an interpolation ({text[:60]})")


def parts(value: Any, depth: int = 0) -> Iterator[tuple[Any, int]]:
    """A value and, one after the other, all that it holds, each with its depth."""
    yield value, depth
    held = chain.from_iterable(value.items()) if isinstance(value, dict) else value
    for part in held if isinstance(value, dict | list | tuple) else ():
        yield from parts(part, depth + 1)


def read_json(text: str) -> Any:
    """JSON; `ValueError` also where it is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def open_image(path: Path | str | IO[bytes]) -> "Image.Image":
    """An image file whose head was read; none of its pixels are unpacked yet.

    Raises:
        ValueError: it has too many pixels; and Pillow's errors.
    """
    from PIL import Image

    image = Image.open(path, formats=FORMATS)
    if math.prod(image.size) > PIXELS:
        image.close()
        raise ValueError(f"it has {image.width}×{image.height} pixels; at most {PIXELS:,} are read")
    tags: Any = getattr(image, "tag_v2", {})  # of TIFF, whose tiles are unpacked whole, however small the image is
    tile = [tags.get(tag) for tag in (322, 323)]
    if all(isinstance(side, int) for side in tile) and math.prod(tile) > max(2**22, 4 * math.prod(image.size)):
        image.close()
        raise ValueError(f"it has tiles of {tile[0]}×{tile[1]} pixels for {image.width}×{image.height}")
    return image


def unpacked(found: dict[str, zipfile.ZipInfo]) -> int:
    """Bytes that entries announce."""
    return sum(info.file_size for info in found.values())

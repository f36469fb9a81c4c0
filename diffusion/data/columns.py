"""From the columns of a table of the library `datasets` to pixels, and to the names of classes.

Images are decoded here, rather than by that library, with the care that a stranger's file needs: `diffusion.system.
untrusted` knows which kinds and sizes are read. A table may also name files; those of another place are left alone.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion.data.decoding import Colour, decode_file, reason
from diffusion.data.pixels import pixels
from diffusion.data.shapes import Size
from diffusion.system.errors import UserError
from diffusion.system.progress import progress_bar
from diffusion.system.untrusted import MEMORY_LIMIT, open_image

MANY = 500  # images that take long enough for a bar
GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "F")  # Pillow's modes


class ImageColumn:
    """How the images of a column become pixels.

    Args:
        size: (height, width) in pixels, or the side of a square; None keeps their own, which must be that of all.
        fit: how images of another shape are brought to it, as in `diffusion.data.fitting`.
        channels: 3 for colour, 1 for grey; None takes those of the first image.
        background: what shows through transparent pixels.
        value_range, layout: of arrays, as in `diffusion.data.pixels`.
        places: folders in which files may lie that the table names.
    """

    def __init__(
        self,
        size: int | Size | None,
        fit: str,
        channels: int | None,
        background: Colour,
        value_range: Sequence[float] | None,
        layout: str | None,
        places: Sequence[Path],
    ) -> None:
        self.size, self.fit, self.channels, self.background = size, fit, channels, background
        self.value_range, self.layout, self.places = value_range, layout, [place.resolve() for place in places]
        self.shape: tuple[int, ...] | None = None  # (C, H, W) of all images, known with the first

    def read(self, table: Any, column: str, what: str) -> Tensor:
        """The images of a column as uint8 (N, C, H, W).

        Args:
            table: a `datasets.Dataset`.
            column: of images, or of arrays.
            what: it is, for messages.

        Raises:
            UserError: one of them cannot be read, or has another size.
        """
        from datasets import Image

        if isinstance(table.features[column], Image):
            for setting, given in (("range", self.value_range), ("layout", self.layout)):
                if given is not None:
                    raise UserError(
                        f"data.{setting}={in_brackets(given)} is for arrays, and {what} holds images: leave it out."
                    )
            return self.decoded(table.cast_column(column, Image(decode=False))[column], what)
        self.check_arrays(table, column, what)
        values = np.asarray(table.with_format("numpy")[column][:])
        if values.dtype == object:
            raise UserError(f"{what} holds lists of several shapes: images must be of one size.")
        kind = inner(table.features[column])
        return pixels(values.astype(kind) if kind else values, what, self.value_range, self.layout)

    def check_arrays(self, table: Any, column: str, what: str) -> None:
        """Raise `UserError` where arrays take too much memory, or should be changed as only images can be."""
        fit = None if self.fit == "crop" else self.fit
        for setting, given in (("image_size", self.size), ("channels", self.channels), ("fit", fit)):
            if given is not None:
                raise UserError(
                    f"data.{setting}={in_brackets(given)} is for images, and {what} holds arrays, which are taken as "
                    "they are: leave it out, or save a column of images."
                )
        if table.data.column(column).nbytes > MEMORY_LIMIT:
            raise UserError(
                f"{what}: its {len(table):,} arrays take more than {MEMORY_LIMIT / 2**30:.1f} GiB of memory: save them "
                "as files, for data=image_folder."
            )

    def decoded(self, entries: Any, what: str) -> Tensor:
        """Images that are files, as bytes or with a path; arguments and errors as of `read`."""
        images = np.empty(0, np.uint8)
        with progress_bar(len(entries), "reading images", "images", disable=len(entries) <= MANY) as bar:
            for row, entry in enumerate(entries):
                name = f"{what}, its row {row}"
                try:
                    if self.channels is None:
                        with open_image(self.file(entry)) as first:
                            self.channels = 1 if first.mode in GREY else 3
                    found = decode_file(self.file(entry), self.size, self.channels, self.background, self.fit).pixels
                except Exception as error:  # Pillow raises many kinds for a damaged file
                    raise UserError(
                        f"{name}, cannot be read as an image ({reason(error)}): mend or remove it."
                    ) from error
                found = found.transpose(2, 0, 1)
                self.shape = self.shape or found.shape
                if found.shape != self.shape:
                    (_, h, w), (_, height, width) = found.shape, self.shape
                    raise UserError(
                        f"{name}, has {h}×{w} pixels, and the first image {height}×{width}: give one size for all, by "
                        "data.image_size=32 for example."
                    )
                if row == 0:
                    if len(entries) * found.size > MEMORY_LIMIT:
                        raise UserError(
                            f"{what}: {len(entries):,} images of {found.shape[1]}×{found.shape[2]} pixels take more "
                            f"than {MEMORY_LIMIT / 2**30:.1f} GiB of memory: give a smaller data.image_size=…, or save "
                            "them as files, for data=image_folder."
                        )
                    images = np.empty((len(entries), *found.shape), np.uint8)
                images[row] = found
                bar.update()
        return torch.from_numpy(images)

    def file(self, entry: Any) -> io.BytesIO | Path:
        """What an entry of a table holds or names; `ValueError` where that is no image, or lies elsewhere."""
        entry = entry or {}
        if entry.get("bytes") is not None:
            return io.BytesIO(entry["bytes"])
        if entry.get("path") is None:
            raise ValueError("it is empty")
        path = Path(entry["path"])
        if not any(path.resolve().is_relative_to(place) for place in self.places):
            raise ValueError(f"the table names a file outside the data, {entry['path'][:200]}")
        return path


def classes_in(table: Any, column: str, what: str) -> list[str] | None:
    """The name of the class of each row; None where none of them has one. Arguments and errors as of `read`."""
    from datasets import ClassLabel

    feature, values = table.features[column], list(table.with_format(None)[column])
    missing = [value is None or (isinstance(feature, ClassLabel) and value == -1) for value in values]
    if all(missing):
        return None
    if any(missing):
        raise UserError(f"{what} has no class in row {missing.index(True)}: mend it, or set data.labels=false.")
    if not isinstance(values[0], str | int):
        raise UserError(
            f"{what} holds {type(values[0]).__name__}s, but labels are whole numbers or texts: choose another "
            "data.label_column=…, or set data.labels=false."
        )
    return [feature.int2str(value) if isinstance(feature, ClassLabel) else str(value) for value in values]


def in_brackets(value: Any) -> str:
    """A value as it is written on the command line."""
    return f"[{','.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)


def inner(feature: Any) -> str | None:
    """The kind of the numbers in lists of lists."""
    while hasattr(feature, "feature"):
        feature = feature.feature
    return getattr(feature, "dtype", None)


def holds_images(feature: Any) -> bool:
    """Whether a column holds images; or arrays of at least two dimensions."""
    from datasets import Array2D, Array3D, Image

    nested = hasattr(getattr(feature, "feature", None), "feature")
    return isinstance(feature, Image | Array2D | Array3D) or nested

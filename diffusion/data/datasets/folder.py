"""A folder of images of any kind and size."""

from pathlib import Path

import torch

from diffusion.data.augmentation import Augmentation
from diffusion.data.decoding import colour
from diffusion.data.fitting import check_fit
from diffusion.data.images import ImageData, ImageFiles, Images
from diffusion.data.reading import FolderReader
from diffusion.data.shapes import AUTO, Padding, check_size, sides
from diffusion.data.splits import Labelled, find_splits


def image_folder(
    root: str,
    image_size: int | list[int] | None,
    channels: int = 3,
    labels: bool | None = None,
    test_fraction: float = 0.1,
    memory_limit: float = 4.0,
    background: str | list[int] = "white",
    skip_damaged: bool = False,
    fit: str = "crop",
    padding: Padding = 0,
    flip: bool = False,
    shift: int = 0,
) -> ImageData:
    """Any images, all brought to one height and width.

    Args:
        root: a folder of images, or of one subfolder per class; with subfolders named `train` and `test` (or
            `val`, `validation`, …) those are the splits, see `diffusion.data.splits`.
        image_size: [height, width] in pixels, or the side of a square; None is that of all images, which must be one.
        channels: 3 for colour, 1 for grey.
        labels: take the subfolders as classes; None means: if there are any subfolders.
        test_fraction: share of the images held out when there is no `test` folder; every class keeps one to train.
        memory_limit: GiB of decoded images above which they are read from their files, batch by batch.
        background: what shows through transparent pixels: white, black, "#rrggbb", or [r, g, b].
        skip_damaged: leave out files that cannot be read, and say how many, rather than stop.
        fit: how images of another shape are brought to it: crop (scaled until they cover it, then cut in the middle),
            pad (scaled to fit inside, the rest `background`) or stretch.
        padding: as in `ImageData`.
        flip, shift: how training images are varied, see `diffusion.data.augmentation`.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels={channels}: images are grey (1) or colour (3)")
    if image_size is not None:
        check_size(image_size)
    check_fit(fit)
    if padding != AUTO:
        sides(padding)  # refused now rather than after thousands of images were read
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction={test_fraction} must lie between 0 and 1")
    ground = colour(background)
    reader = FolderReader(Path(root), image_size, channels, ground, memory_limit, skip_damaged, fit)
    train, test, names = find_splits(root, labels, test_fraction, reader.readable)
    number = {name: k for k, name in enumerate(names)}

    def load(found: list[Labelled]) -> Images | ImageFiles:
        numbers = torch.tensor([number[str(name)] for _, name in found]) if names else None
        return reader.split([path for path, _ in found], numbers)

    name = Path(root).name or Path(root).resolve().name
    return ImageData(
        name, load(train), load(test), names, padding, background=ground, augmentation=Augmentation(flip, shift)
    )

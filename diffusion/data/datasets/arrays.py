"""Images in NumPy's files: an .npz with images and labels, or an .npy of images."""

import logging
from pathlib import Path
from typing import NamedTuple

from diffusion.data.array_file import OF_TEST, ArrayFile, Names
from diffusion.data.augmentation import Augmentation
from diffusion.data.folders import some
from diffusion.data.images import ImageData
from diffusion.data.labelled import Labelled, class_of_each, in_splits
from diffusion.data.pixels import pixels
from diffusion.data.shapes import Padding
from diffusion.data.splits import TRAINING
from diffusion.system.errors import UserError

log = logging.getLogger("diffusion")


def arrays(
    train: str,
    test: str | None = None,
    keys: list[str | None] | None = None,
    train_labels: str | None = None,
    test_labels: str | None = None,
    range: list[float] | None = None,
    layout: str | None = None,
    labels: bool | None = None,
    class_names: list[str | int] | None = None,
    test_fraction: float = 0.1,
    padding: Padding = 0,
    flip: bool = False,
    shift: int = 0,
) -> ImageData:
    """Images of files of arrays, all of one size, as they are.

    Args:
        train: an .npz or .npy of images (N, H, W), (N, H, W, C) or (N, C, H, W); of an .npz the arrays are found by
            their usual names (x, images, x_train, train_images, …, and y, labels, …), and so are its test images.
        test: another such file; None takes the test images of the first, or else holds a part out.
        keys: names of the arrays: [images, labels] of each file, or [images, labels, test images, test labels].
        train_labels, test_labels: files that hold the labels alone.
        range: the values of black and white, such as [0, 1] or [-1, 1]; uint8 needs none.
        layout: "hwc" or "chw", where the shape can be read in two ways.
        labels: False trains without labels; True insists on them.
        class_names: of the labels 0, 1, …; None takes the numbers, or the texts that the labels are.
        test_fraction: share of the images held out where there are no test images; every class keeps one to train.
        padding: as in `ImageData`.
        flip, shift: how training images are varied, see `diffusion.data.augmentation`.
    """
    how = Reading(range, layout, labels, class_names)
    first = ArrayFile(train, "data.train")
    second = first if test is None else ArrayFile(test, "data.test")
    if len(keys or []) > 4:
        raise UserError(f"data.keys={keys}: give at most four names, [images,labels,test images,test labels].")
    mine, others = (keys or [])[:2], (keys or [])[2:]
    found = first.find((TRAINING[0], None), mine)
    held = second.find(OF_TEST if test is None else (*OF_TEST, None), others or ([] if test is None else mine))
    for file, names in ((first, found), *([] if test is None else [(second, held)])):
        if names is None:
            raise UserError(f"{file.contents()}: name its images and labels by data.keys=[…,…].")
    split, said = how.split(first, found, train_labels, "data.train_labels")  # type: ignore[arg-type]
    rest = None
    if held is not None:
        rest, text = how.split(second, held, test_labels, "data.test_labels")
        said += f"; to test, {text}"
    used = (*(found or ()), *(held or ()))
    unused = [] if test is not None else [name for name in first.heads if name and name not in used]
    log.info("data.train=%s: %s%s.", train, said, f"; not used: {some(unused, 5)}" if unused else "")
    order = None if class_names is None else [str(name) for name in class_names]
    ready = in_splits(split, rest, order, test_fraction, f"data.train={train}")
    return ImageData(Path(train).stem, *ready, padding, augmentation=Augmentation(flip, shift))


class Reading(NamedTuple):
    """How arrays become images with classes: settings of `arrays`, with which they are read."""

    value_range: list[float] | None
    layout: str | None
    labels: bool | None
    class_names: list[str | int] | None

    def split(self, file: ArrayFile, names: Names, apart: str | None, setting: str) -> tuple[Labelled, str]:
        """The images of a split, and where they and their labels are from, in words.

        Args:
            file: of the images.
            names: of its arrays.
            apart: a file of the labels, in place of those in the first.
            setting: that names it, for messages.
        """
        images = pixels(file.read(names.images), file.called(names.images), self.value_range, self.layout)
        said, key = f"{len(images):,} images" + (f" from {names.images}" if names.images else ""), names.labels
        if self.labels is not False and apart is not None:
            file = ArrayFile(apart, setting)
            key = file.find_labels()
        if self.labels and key is None:
            raise UserError(f"data.labels=true, but {file.contents()}: give the labels by {setting}=FILE.")
        if self.labels is False or key is None:
            return Labelled(images, None), f"{said} without labels"
        classes = class_of_each(file.read(key), len(images), file.called(key), self.class_names)
        return Labelled(images, classes), f"{said}, labels from {apart or key}"

"""Images in memory with the names of their classes → the two splits of a data set.

Where there are no test images some are held out, the same in every run, and every class keeps one for training.
"""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffusion.data.images import Images
from diffusion.data.splits import class_order, held_out, of_classes
from diffusion.system.errors import UserError

log = logging.getLogger("diffusion")


class Labelled(NamedTuple):
    """The images of a split.

    Args:
        images: uint8 (N, C, H, W).
        classes: the name of each one's class; None where they have none.
    """

    images: Tensor
    classes: list[str] | None


def in_splits(
    train: Labelled, test: Labelled | None, order: Sequence[str] | None, fraction: float, where: str
) -> tuple[Images, Images, list[str]]:
    """The training images, the test images and the names of the classes.

    Args:
        train: to learn from; without classes, those of the test images are not used either.
        test: None holds some of the training images out.
        order: of the classes; None sorts them, numbers by their value.
        fraction: of the images to hold out.
        where: they are from, as its setting, for messages.

    Raises:
        UserError: there are too few of them, or the two splits do not belong together.
    """
    if not 0 < fraction < 1:
        raise UserError(f"data.test_fraction={fraction} must lie between 0 and 1.")
    if test is not None and test.images.shape[1:] != train.images.shape[1:]:
        mine, others = (f"{h}×{w} pixels with {c} channels" for c, h, w in (s.images.shape[1:] for s in (train, test)))
        raise UserError(f"{where}: its images have {mine}, and the test images {others}: they must be of one shape.")
    if test is not None and train.classes is not None and test.classes is None:
        log.warning("%s: its images have classes and the test images have none, so that these are not used.", where)
        test = None
    names = [] if train.classes is None else list(order or class_order(set(train.classes)))
    number = {name: k for k, name in enumerate(names)}

    def rows(split: Labelled) -> list[tuple[int, str | None]]:
        return list(enumerate(split.classes if names and split.classes else [None] * len(split.images)))

    def chosen(split: Labelled, found: list[tuple[int, str | None]]) -> Images:
        labels = torch.tensor([number[str(name)] for _, name in found]) if names else None
        whole = len(found) == len(split.images)
        return Images(split.images if whole else split.images[torch.tensor([row for row, _ in found])], labels)

    if test is None:
        kept, out = held_out(rows(train), fraction, bool(names), where)
        log.info("%s: %s of %s images are held out for testing.", where, f"{len(out):,}", f"{len(train.images):,}")
        return chosen(train, kept), chosen(train, out), names
    found = of_classes(rows(test), names, where) if names else rows(test)
    return chosen(train, rows(train)), chosen(test, found), names


def class_of_each(labels: np.ndarray, count: int, what: str, class_names: Sequence[Any] | None) -> list[str]:
    """The name of the class of each image.

    Args:
        labels: (N,) or (N, 1), whole numbers or texts.
        count: of images.
        what: they are, for messages: "data.train=FILE, its array y".
        class_names: of the classes 0, 1, …, or the order of those that are texts.

    Raises:
        UserError: these are no labels of so many images.
    """
    shape = " × ".join(map(str, labels.shape))
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (count,):
        one = "; of one-hot labels take x.argmax(1)" if labels.ndim == 2 and len(labels) == count else ""
        raise UserError(
            f"{what} is {shape or 'a single number'}, but labels are one for each of the {count} images{one}."
        )
    if labels.dtype.kind == "f" and np.isfinite(labels).all() and (labels == labels.round()).all():
        labels = labels.astype(np.int64)
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8", "replace")
    if labels.dtype.kind not in "iubU":
        raise UserError(
            f"{what} holds {labels.dtype}, but labels are whole numbers or texts; data.labels=false does without."
        )
    names = None if class_names is None else [str(name) for name in class_names]
    if names is not None and len(set(names)) < len(names):
        raise UserError(
            f"data.class_names=[{','.join(names)}] names a class twice: give every class a name of its own."
        )
    if labels.dtype.kind == "U":
        found = [str(name) for name in labels]
        strange = sorted(set(found) - set(names or found))
        if strange:
            raise UserError(
                f"{what} holds {strange[0]!r}, which is none of data.class_names=[{','.join(names or [])}]."
            )
        return found
    numbers = labels.astype(np.int64)
    if names is None:
        return [str(n) for n in numbers.tolist()]
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(names):
        raise UserError(
            f"{what} holds numbers from {numbers.min()} to {numbers.max()}, and data.class_names has names for 0 to "
            f"{len(names) - 1}: give one for each number."
        )
    return [names[n] for n in numbers.tolist()]

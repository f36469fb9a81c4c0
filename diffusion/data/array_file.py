"""Which arrays of a file are images and labels, of training and of testing: by the names that people give them.

x_train  y_train  x_test  y_test      train_images  train_labels  val_images  …      images  labels      arr_0
"""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffusion.data.folders import refuse_file, some
from diffusion.data.splits import TEST, TRAINING, VALIDATION
from diffusion.system.array_files import Head, array_heads, is_npy, read_arrays, read_npy
from diffusion.system.errors import UserError, brief

IMAGES = ("images", "image", "imgs", "img", "x", "data", "pixels", "samples", "arr_0")
LABELS = ("labels", "label", "y", "targets", "target", "classes", "class", "arr_1")
SPLITS = {word: words[0] for words in (TRAINING, TEST, VALIDATION) for word in words}
OF_TEST = (TEST[0], VALIDATION[0])


class Names(NamedTuple):
    """Which arrays of a file are the images and the labels of a split; the one of an .npy has no name ("")."""

    images: str
    labels: str | None


class ArrayFile:
    """A file of arrays.

    Args:
        path: of it.
        setting: that names it, for messages.

    Raises:
        UserError: it is no .npz or .npy, or cannot be read.
    """

    def __init__(self, path: str, setting: str) -> None:
        self.path, self.what = Path(path), f"{setting}={path}"
        if os.path.isdir(path):
            raise UserError(
                f"{self.what} is a folder: give an .npz or .npy, or a folder of images by data=image_folder."
            )
        if not os.path.exists(path):
            raise UserError(f"{self.what}: there is no such file; give an .npz or .npy.")
        refuse_file(self.path, setting, arrays=True)
        self.heads: dict[str, Head] = self.reading(array_heads, self.path)

    def reading(self, read: Callable, *arguments: Any) -> Any:
        """What `read` returns; `UserError` where the file is damaged, or holds what is not read."""
        try:
            return read(*arguments)
        except MemoryError:
            raise
        except Exception as error:  # NumPy and zipfile raise many kinds for a damaged file
            why = brief(error)
            if "pickled" in why:
                why += ": save it anew without, texts by .astype(str), images of one size as one array"
            elif "at once" in why:
                why += ": save the images as files, for data=image_folder"
            raise UserError(f"{self.what} cannot be read as .npz or .npy ({why}).") from error

    def read(self, name: str) -> np.ndarray:
        """One of its arrays."""
        if is_npy(self.path):
            return self.reading(read_npy, self.path)
        return self.reading(read_arrays, self.path, (name,))[name]

    def called(self, name: str) -> str:
        """One of its arrays, in words."""
        return f"{self.what}{f', its array {name},' if name else ''}"

    def contents(self) -> str:
        """What it holds, in words."""
        each = [f"{name} {'×'.join(map(str, head.shape))} {head.dtype}" for name, head in self.heads.items()]
        return f"{self.what} holds {some(each, 8) or 'no arrays'}"

    def find(self, roles: Sequence[str | None], keys: Sequence[str | None]) -> Names | None:
        """The images and labels of a split; None where there are none.

        Args:
            roles: the split's names, the best first; None stands for names without a split.
            keys: the names that its owner gave, of the images and of the labels.
        """
        for key in keys:
            if key is not None and key not in self.heads:
                raise UserError(f"data.keys: {self.contents()}, but no {key}: choose from these.")
        given = keys[0] if keys else None
        for role in roles if given is None else (meaning(given)[0],):
            images = given or self.best(role, IMAGES)
            if images is not None:
                return Names(images, keys[1] if len(keys) > 1 else self.best(role, LABELS))
        loose = [name for name in self.heads if None in roles and meaning(name)[0] in roles]
        several = len(loose) > 1
        loose = [name for name in loose if not several or len(self.heads[name].shape) in (3, 4)]
        return Names(loose[0], keys[1] if len(keys) > 1 else self.best(None, LABELS)) if len(loose) == 1 else None

    def find_labels(self) -> str:
        """The labels in a file that is there for them."""
        names = [name for name in self.heads if len(self.heads) == 1 or meaning(name)[1] in LABELS]
        if len(names) != 1:
            raise UserError(f"{self.contents()}: it must hold one array, the labels.")
        return names[0]

    def best(self, role: str | None, kinds: Sequence[str]) -> str | None:
        """The array of a split with the most usual of some names."""
        found = [
            (kinds.index(kind), name)
            for name in self.heads
            for split, kind in [meaning(name)]
            if split == role and kind in kinds
        ]
        return min(found)[1] if found else None


def meaning(name: str) -> tuple[str | None, str]:
    """The split that the name of an array tells, and the rest of it: x_train → ("train", "x")."""
    words = re.findall(r"[a-z0-9]+", re.sub(r"^([xy])(?=train|test|val)", r"\1_", name.casefold()))
    rest = "_".join(word for word in words if word not in SPLITS)
    split = next((SPLITS[word] for word in words if word in SPLITS), None)
    return split, rest or (IMAGES[0] if split else "")

"""The one interface of all extractors: uint8 images → features, and perhaps logits."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion.data.images import ImageData
from diffusion.system.device import exact_float32
from diffusion.system.errors import UserError, brief
from diffusion.system.untrusted import read_old_torch, read_torch


class Features:
    """Base of all extractors.

    Args:
        data: its training split is the reference of all scores, its test split shows what real images score.
        device: where networks run.
        cache: folder for what is computed once.

    Attributes:
        name: for reports.
        fingerprint: a hash of everything that the features depend on.
        preprocessing: what happens to the pixels before the network.
        recognises_classes: whether the logits are those of the data's classes.
        packaged: whether the statistics of the full training set come with the package.
        doubt: why these features, or others that were to be used, say little, for reports; None where they do.
        reference: the statistics of real images by these features; `reference_of` makes it.
    """

    name: str
    fingerprint: str
    preprocessing = "native size; uint8 / 127.5 - 1"
    recognises_classes = False
    packaged: str | None = None
    doubt: str | None = None
    reference: Any = None

    def __init__(self, data: ImageData, device: torch.device, cache: str = "data/cache") -> None:
        if min(len(data.train), len(data.test)) < 2:
            raise UserError(
                f"data={data.name} holds {len(data.train)} + {len(data.test)} images: scores need at least 2 of "
                "each; add images, raise data.test_fraction, or set score.n=0."
            )
        self.data, self.device, self.cache = data, device, Path(cache)

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features (b, d) and logits (b, K) or None, on the CPU, of uint8 images (b, C, H, W) of the data's size."""
        expected = (self.data.channels, self.data.image_size, self.data.image_size)
        if tuple(images.shape[1:]) != expected:
            raise UserError(
                f"The images are {tuple(images.shape[1:])} (channels, height, width), but data={self.data.name} is "
                f"{expected}: score them against their own data."
            )
        with torch.no_grad(), exact_float32():
            features, logits = self.extract(images)
        return features.cpu(), None if logits is None else logits.cpu()

    def extract(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """What a subclass writes; images as in `__call__`."""
        raise NotImplementedError


def read_state(path: str) -> dict[str, Tensor]:
    """A state_dict from a .safetensors or a PyTorch file, without running code from it."""
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(path)
        with open(path, "rb") as file:
            zipped = file.read(4) == b"PK\3\4"  # as PyTorch decides
        state = (read_torch if zipped else read_old_torch)(Path(path))
    except FileNotFoundError as error:
        raise UserError(f"features.weights={path} does not exist.") from error
    except Exception as error:  # pickle, zip and safetensors errors alike
        raise UserError(f"features.weights={path} is no file of weights ({brief(error)}).") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"features.weights={path} holds something else than a state_dict.")
    return state

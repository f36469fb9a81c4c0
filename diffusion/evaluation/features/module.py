"""Any network of the user."""

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion.data.images import ImageData, encode
from diffusion.evaluation.cache import cache_key
from diffusion.evaluation.classifier import forward_frozen, state_hash
from diffusion.evaluation.features.base import Features, read_state
from diffusion.system.errors import UserError, brief


class ModuleFeatures(Features):
    """Any `torch.nn.Module` of the user: float32 images (B, C, H, W) in [−1, 1] → features (B, d).

    It may also return (features, logits), logits of the data's own classes.

    Args:
        network: {"_target_": "package.Name", argument: value, …}; looked for in the working directory, too.
        weights: a file with its state_dict, or None.
    """

    def __init__(
        self,
        data: ImageData,
        device: torch.device,
        network: dict,
        cache: str = "data/cache",
        weights: str | None = None,
    ) -> None:
        super().__init__(data, device, cache)
        arguments = dict(network)
        target = arguments.pop("_target_", None)
        if not isinstance(target, str):
            raise UserError("features.network._target_ must be given: the dotted name of a torch.nn.Module.")
        kind = import_name(target)
        if not (inspect.isclass(kind) and issubclass(kind, nn.Module)):
            raise UserError(f"features.network._target_={target} is no torch.nn.Module.")
        try:
            with torch.random.fork_rng(devices=[]):  # one without trained weights is the same every time
                torch.default_generator.manual_seed(0)
                self.network = kind(**arguments)
        except TypeError as error:
            raise UserError(f"features.network={network}: {brief(error)}.") from error
        if weights is not None:
            try:
                self.network.load_state_dict(read_state(weights))
            except RuntimeError as error:
                raise UserError(f"features.weights={weights} do not fit {target} ({brief(error)}).") from error
        self.network.to(device)
        self.fingerprint = cache_key(target, arguments, state_hash(self.network), source(self.network))
        self.name = f"{target}, {self.fingerprint}"
        _, logits = self.extract(data.train.select(torch.arange(2))[0])
        self.recognises_classes = logits is not None
        if logits is not None and logits.shape[1] != len(data.class_names):
            raise UserError(
                f"features.network._target_={target} returns {logits.shape[1]} logits, but "
                f"data={data.name} has {len(data.class_names)} classes."
            )

    def extract(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        found = forward_frozen(self.network, encode(images.to(self.device)))
        features, logits = found if isinstance(found, tuple) else (found, None)
        if not isinstance(features, Tensor) or len(features) != len(images) or features.ndim < 2:
            raise UserError("features.network must return features (B, d), or (features, logits), for images (B, …).")
        return features.flatten(1).float(), logits


def import_name(name: str) -> Any:
    """What a dotted name leads to; modules in the working directory count."""
    module, _, inner = name.rpartition(".")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return getattr(importlib.import_module(module), inner)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"features.network._target_={name} cannot be imported ({brief(error)}).") from error
    finally:
        sys.path.remove(here)


def source(network: nn.Module) -> list[str]:
    """The files that define a network's parts (but PyTorch's own), so that what was cached is not taken for another
    version's. Functions that they import from elsewhere are not covered.
    """
    kinds = {type(part).__module__: type(part) for part in network.modules()}
    files = []
    for name, kind in sorted(kinds.items()):
        if name.split(".")[0] != "torch":
            try:
                files.append(Path(inspect.getsourcefile(kind) or "").read_text(encoding="utf-8"))
            except (OSError, TypeError):
                files.append(name)
    return files

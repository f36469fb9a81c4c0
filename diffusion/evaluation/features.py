"""What images are compared by. Every extractor has one interface: uint8 images → features, and perhaps logits.

- `ClassifierFeatures`: a classifier trained on the very data; the default, as it looks at what matters there.
- `PCAFeatures`: the main components of the training pixels; no network and no labels, so anyone can recompute them.
- `InceptionFeatures`: the InceptionV3 of published FIDs, from the library torch-fidelity.
- `ModuleFeatures`: any network of the user.
"""

import importlib
import inspect
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diffusion.data import ASSETS, ImageData, encode
from diffusion.device import exact_float32
from diffusion.errors import UserError, brief
from diffusion.evaluation.cache import cache_key, remembered
from diffusion.evaluation.classifier import (
    forward_frozen,
    load_classifier,
    recipe,
    save_classifier,
    state_hash,
    train_classifier,
)

log = logging.getLogger("diffusion")


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
    """

    name: str
    fingerprint: str
    preprocessing = "native size; uint8 / 127.5 - 1"
    recognises_classes = False
    packaged: str | None = None

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


def automatic(
    data: ImageData, device: torch.device, cache: str = "data/cache", weights: str | None = None, epochs: int = 16
) -> Features:
    """`ClassifierFeatures` for data with labels, `PCAFeatures` for data without; arguments as theirs."""
    if data.class_names:
        return ClassifierFeatures(data, device, cache, weights, epochs)
    if weights is not None:
        raise UserError(f"features.weights={weights}: data={data.name} has no labels, so no classifier can score it.")
    log.info(
        "data=%s has no labels: it is scored by features=pca; Inception Score and accuracy, which need a classifier, "
        "are left out.",
        data.name,
    )
    return PCAFeatures(data, device, cache)


class ClassifierFeatures(Features):
    """The 192 averaged features and the logits of a scoring classifier.

    Args:
        weights: a scorer file; None takes the packaged one, or trains one.
        epochs: of that training.
    """

    recognises_classes = True

    def __init__(
        self,
        data: ImageData,
        device: torch.device,
        cache: str = "data/cache",
        weights: str | None = None,
        epochs: int = 16,
    ) -> None:
        if not data.class_names:
            raise UserError(f"data={data.name} has no labels, so no classifier can score its images: use features=pca.")
        super().__init__(data, device, cache)
        if weights is not None:
            path = Path(weights)
        elif data.packaged_scorer is not None:
            path = ASSETS / f"{data.packaged_scorer}_scorer.safetensors"
            self.packaged = data.packaged_scorer
        else:
            key = cache_key(self.preprocessing, data.fingerprint(), data.class_names, recipe(), epochs)
            path = self.cache / f"scorer_{key}.safetensors"
        if weights is None and not path.exists():
            log.info("Training a scoring classifier for data=%s, once; it will be kept as %s.", data.name, path)
            self.classifier, self.record = train_classifier(data, device, epochs=epochs, log=log_epoch)
            try:
                save_classifier(path, self.classifier, self.record)
            except Exception as error:  # safetensors raises a kind of its own for a folder that cannot be written
                log.warning("The scoring classifier could not be kept as %s (%s).", path, brief(error))
        else:
            self.classifier, self.record = load_classifier(path, device)
        if self.record["class_names"] != data.class_names or self.record["channels"] != data.channels:
            raise UserError(
                f"features.weights={path} was made for {self.record['data']}, whose classes or channels are not "
                f"those of data={data.name}."
            )
        self.fingerprint = self.classifier.fingerprint()
        self.name = f"classifier trained on {self.record['data']}, weights {self.fingerprint}"

    def extract(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        features, logits = forward_frozen(self.classifier, encode(images.to(self.device)))
        return features, logits


class PCAFeatures(Features):
    """The principal components of the training pixels: x ↦ Vᵀ(x − mean), pixels in [0, 1].

    Args:
        components: how many, at most as many as there are pixels (and images but one).
    """

    preprocessing = "native size; uint8 / 255"

    def __init__(self, data: ImageData, device: torch.device, cache: str = "data/cache", components: int = 64) -> None:
        if components < 1:
            raise ValueError(f"components={components} must be at least 1")
        super().__init__(data, device, cache)
        self.fingerprint = cache_key(self.preprocessing, data.fingerprint(), components)
        path = self.cache / f"pca_{self.fingerprint}.npz"
        stored = remembered(path, "principal components of the training pixels", lambda: self._fit(components))
        self.mean, self.components = stored["mean"], stored["components"]
        self.name = f"{len(self.components)} principal components of the training pixels, {self.fingerprint}"

    def extract(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        pixels = images.flatten(1).double().numpy() / 255
        return torch.from_numpy((pixels - self.mean) @ self.components.T), None

    def _fit(self, components: int) -> dict[str, np.ndarray]:
        """Mean (D,) and components (k, D), from all images where D ≤ 4096, else from the Gram matrix of 4096 images."""
        pixels = self.data.channels * self.data.image_size**2
        indices = torch.arange(len(self.data.train))
        if pixels > 4096:
            indices = indices[:: -(-len(indices) // 4096)]
        parts = [self.data.train.select(part)[0].flatten(1).numpy() for part in indices.split(5000)]
        mean = sum(part.sum(axis=0, dtype=np.float64) for part in parts) / (255 * len(indices))
        if pixels <= 4096:
            scatter = np.zeros((pixels, pixels))
            for part in parts:
                centred = part / 255 - mean
                scatter += centred.T @ centred
            vectors = np.linalg.eigh(scatter)[1].T[::-1]
        else:
            centred = np.concatenate(parts) / 255 - mean
            vectors = np.linalg.svd(centred, full_matrices=False)[2]
        return {"mean": mean, "components": np.ascontiguousarray(vectors[: min(components, len(indices) - 1)])}


class InceptionFeatures(Features):
    """The 2048 features and 1008 unbiased logits of the InceptionV3 that published FIDs and Inception Scores use.

    Grey images are repeated to three channels and all are resized to 299×299 as TensorFlow 1 did, which alone moves
    the scores; the library does the resizing.

    Args:
        weights: the library's file weights-inception-2015-12-05-6726825d.pth, or None to download it.
    """

    preprocessing = "grey repeated to RGB; bilinear to 299×299 in the TensorFlow 1 manner; (uint8 − 128) / 128"

    def __init__(
        self, data: ImageData, device: torch.device, cache: str = "data/cache", weights: str | None = None
    ) -> None:
        super().__init__(data, device, cache)
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise UserError(
                'features=inception needs the library torch-fidelity: pip install -e ".[inception]".'
            ) from error
        layers = ("inception-v3-compat", ["2048", "logits_unbiased"])
        with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
            path = None
            if weights is not None:  # the library would run code from the file, so it gets a copy of the tensors alone
                path = str(Path(folder) / "weights.pth")
                torch.save(read_state(weights), path)
            try:
                self.network = FeatureExtractorInceptionV3(*layers, feature_extractor_weights_path=path)
            except Exception as error:  # urllib raises many kinds, and PyTorch one for tensors that do not fit
                if weights is not None:
                    raise UserError(f"features.weights={weights} are not those of the FID InceptionV3.") from error
                raise UserError(
                    f"features=inception: the weights could not be downloaded ({brief(error)}); fetch "
                    "weights-inception-2015-12-05-6726825d.pth from torch-fidelity's releases and give it as "
                    "features.weights=FILE."
                ) from error
        self.network.to(device)
        self.fingerprint = state_hash(self.network)
        self.name = f"InceptionV3 (torch-fidelity), weights {self.fingerprint}"

    def extract(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        rgb = images if images.shape[1] == 3 else images.repeat(1, 3, 1, 1)
        parts = [self.network(part.to(self.device)) for part in rgb.split(50)]
        features, logits = (torch.cat([part[i] for part in parts]) for i in (0, 1))
        return features, logits


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
        probe = self.extract(data.train.select(torch.arange(2))[0])
        self.recognises_classes = probe[1] is not None
        if self.recognises_classes and probe[1].shape[1] != len(data.class_names):  # type: ignore[union-attr]
            raise UserError(
                f"features.network._target_={target} returns {probe[1].shape[1]} logits, but "  # type: ignore[union-attr]
                f"data={data.name} has {len(data.class_names)} classes."
            )

    def extract(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        found = forward_frozen(self.network, encode(images.to(self.device)))
        features, logits = found if isinstance(found, tuple) else (found, None)
        if not isinstance(features, Tensor) or len(features) != len(images) or features.ndim < 2:
            raise UserError("features.network must return features (B, d), or (features, logits), for images (B, …).")
        return features.flatten(1).float(), logits


# ---------------------------------------------------------------------------------------- files and hashes


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


def read_state(path: str) -> dict[str, Tensor]:
    """A state_dict from a .safetensors or a PyTorch file, without running code from it."""
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"features.weights={path} does not exist.") from error
    except Exception as error:  # pickle, zip and safetensors errors alike
        raise UserError(f"features.weights={path} is no file of weights ({brief(error)}).") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"features.weights={path} holds something else than a state_dict.")
    return state


def source(network: nn.Module) -> list[str]:
    """The files that define a network's parts (but PyTorch's own), so that what was cached is not taken for another
    version's. Functions that they import from elsewhere are not covered.
    """
    kinds = {type(part).__module__: type(part) for part in network.modules()}
    files = []
    for name, kind in sorted(kinds.items()):
        if name.split(".")[0] != "torch":
            try:
                files.append(Path(inspect.getsourcefile(kind) or "").read_text())
            except (OSError, TypeError):
                files.append(name)
    return files


def log_epoch(epoch: int, scores: dict[str, float]) -> None:
    """One line per epoch of a scorer's training."""
    log.info("scorer, epoch %d: %s", epoch, ", ".join(f"{name} {value:.4f}" for name, value in scores.items()))

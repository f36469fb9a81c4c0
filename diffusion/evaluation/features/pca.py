"""The main components of the training pixels: no network and no labels, so anyone can recompute them."""

import math

import numpy as np
import torch
from scipy.linalg import eigh
from torch import Tensor

from diffusion.data.images import ImageData
from diffusion.evaluation.cache import cache_key, remembered
from diffusion.evaluation.features.base import Features

MOST_PIXELS = 2**26  # values in double precision that are decomposed at once


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
        """Mean (D,) and components (k, D), from all images where D ≤ 4096, else from the Gram matrix of 4096 images, or
        of fewer where their pixels would take more than half a gigabyte.
        """
        pixels = self.data.channels * math.prod(self.data.image_size)
        indices = torch.arange(len(self.data.train))
        if pixels > 4096:
            indices = indices[:: -(-len(indices) // min(4096, MOST_PIXELS // pixels))]
        parts = [self.data.train.select(part)[0].flatten(1).numpy() for part in indices.split(5000)]
        mean = sum(part.sum(axis=0, dtype=np.float64) for part in parts) / (255 * len(indices))
        count = min(components, len(indices) - 1)
        if pixels <= 4096:
            scatter = np.zeros((pixels, pixels))
            for part in parts:
                centred = part / 255 - mean
                scatter += centred.T @ centred
            vectors = np.linalg.eigh(scatter)[1].T[::-1]
        else:
            centred = np.concatenate(parts) / 255 - mean
            last = len(indices) - 1
            vectors = eigh(centred @ centred.T, subset_by_index=[last - count + 1, last])[1].T[::-1] @ centred
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-9)  # images that are all alike
        return {"mean": mean, "components": np.ascontiguousarray(vectors[:count])}

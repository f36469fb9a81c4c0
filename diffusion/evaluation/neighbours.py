"""Is it memory? The nearest training images of generated ones in pixels, against what unseen test images show.

A model that copies its training images has perfect features and a perfect FID; only this check sees it.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from diffusion.data.images import Images
from diffusion.system.device import exact_float32

CHUNK = 10_000  # training images compared at once, or fewer that have MOST pixels
MOST, EXACT = 2**27, 2**23  # pixels of training images, and of images whose distances are computed exactly, at once
ROWS = 1000


class PixelNeighbours:
    """Finds the two nearest training images by Euclidean distance of the pixels, scaled to [0, 1].

    Candidates are found in float32 and their distances then computed exactly, so copies have distance 0.
    """

    def __init__(self, train: Images, device: torch.device) -> None:
        self.train, self.device = train, device
        self._chunks: list[tuple[Tensor, Tensor]] | None = None

    def nearest(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Distances float64 (b, 2), the smaller first, and indices (b, 2), of uint8 images (b, C, H, W)."""
        with exact_float32():
            index = self._candidates(images)
        few = max(1, EXACT // images[0].numel())
        parts = zip(images.cpu().split(few), index.split(few), strict=True)
        distance = torch.cat([self._distances(*part) for part in parts])
        distance, order = distance.sort(dim=1, stable=True)
        return distance, index.gather(1, order)

    def _distances(self, images: Tensor, index: Tensor) -> Tensor:
        """Exact distances (b, 2) of uint8 images (b, C, H, W) to the training images at `index` (b, 2)."""
        neighbours = self.train.select(index.flatten())[0].view(len(images), 2, -1)
        difference = neighbours.double() - images.flatten(1).double().unsqueeze(1)
        return difference.square().sum(dim=2).sqrt() / 255

    def _candidates(self, images: Tensor) -> Tensor:
        """Indices (b, 2) of the two nearest, by float32 distances."""
        x = self._values(images)
        best = torch.full((len(x), 2), float("inf"), device=self.device)
        index = torch.zeros((len(x), 2), dtype=torch.long, device=self.device)
        first = 0
        for y, half_norm in self._training_chunks():
            distances = torch.addmm(half_norm, x, y.T, alpha=-1)  # (b, chunk): |y|²/2 − x·y, as ordered as |x − y|²
            values, found = distances.topk(min(2, len(y)), dim=1, largest=False)
            values, found = torch.cat([best, values], dim=1), torch.cat([index, found + first], dim=1)
            best, order = values.topk(2, dim=1, largest=False)
            index, first = found.gather(1, order), first + len(y)
        return index.cpu()

    def _values(self, images: Tensor) -> Tensor:
        """Pixels (b, D) in [−½, ½]: smaller numbers, smaller rounding."""
        return (images.to(self.device).flatten(1).float() / 255).sub_(0.5)

    def _training_chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Pixels (chunk, D) and half their squared norms (1, chunk); kept in memory up to a gigabyte."""
        if self._chunks is not None:
            yield from self._chunks
            return
        chunks, size, pixels = [], 0, self.train.images[0].numel()
        for indices in torch.arange(len(self.train)).split(max(2, min(CHUNK, MOST // pixels))):
            y = self._values(self.train.select(indices)[0])
            size += y.nbytes
            chunks.append((y, y.square().sum(dim=1).unsqueeze(0) / 2))
            yield chunks[-1]
            if size > 2**30:
                chunks.clear()
        if size <= 2**30:
            self._chunks = chunks


def memorisation(distances: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """What the distances to the two nearest training images say.

    Args:
        distances: (n, 2) of generated images, the smaller first.
        real: (m, 2) of test images, which nobody has memorised.

    Returns:
        {"nearest_distance": median distance to the nearest,
        "nearer_than_real": share of images nearer than all but 1 % of the test images are (0.01 is the expectation),
        "lonely_neighbour": share of images less than half as far from the nearest as from the second (a copy stands
        out like this, https://arxiv.org/abs/2301.13188 uses such a ratio), "copies": share at distance 0}.
    """
    nearest, second = distances[:, 0], distances[:, 1]
    return {
        "nearest_distance": float(np.median(nearest)),
        "nearer_than_real": float((nearest < np.quantile(real[:, 0], 0.01)).mean()),
        "lonely_neighbour": float((nearest < second / 2).mean()),
        "copies": float((nearest == 0).mean()),
    }

"""The FID of drawn images by the scorer of Fashion-MNIST, for benchmarks that need no other score."""

import torch
from torch import Tensor

from diffusion.data.images import ImageData, Images
from diffusion.evaluation.features.classifier import ClassifierFeatures
from diffusion.evaluation.metrics import frechet_distance
from diffusion.evaluation.reference import extract_set, reference_of


class Judge:
    """fid(images, labels) against all training images.

    Args:
        data: what the images imitate.
        device: where features are extracted.
    """

    def __init__(self, data: ImageData, device: torch.device) -> None:
        self.features = ClassifierFeatures(data=data, device=device)
        self.real = reference_of(self.features).moments

    def __call__(self, images: Tensor, labels: Tensor | None = None) -> float:
        """The FID of uint8 images (n, C, H, W)."""
        drawn = extract_set(self.features, Images(images, labels), torch.arange(len(images)))
        return frechet_distance(drawn.moments, self.real)

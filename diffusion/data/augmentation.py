"""Images that are mirrored and shifted at random, in training alone: whatever is measured sees them as they are.

    x'[y, x] = x[y − d_y, ±(x − d_x)],   ± by a fair coin,   d uniform in −N … N

What a shift would bring in from outside repeats the edge, so that no ground is invented: that of Fashion-MNIST stays
black, that of a drawing white. Step k draws from a stream addressed by (seed, k), of its own, for the whole batch at
once: neither a resume nor micro-batches nor processes change it, and without augmentation nothing is drawn.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion.system.randomness import AUGMENTATION, stream


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied; the default leaves them as they are.

    Args:
        flip: mirror each image left to right with probability 1/2.
        shift: by up to so many pixels along each axis.

    Raises:
        ValueError: the shift is negative.
    """

    flip: bool = False
    shift: int = 0

    def __post_init__(self) -> None:
        if self.shift < 0:
            raise ValueError(f"shift={self.shift} must be 0 or more pixels")

    def check(self, height: int, width: int) -> None:
        """Raise `ValueError` where images of this height and width, in pixels, would be shifted out of sight."""
        if self.shift >= min(height, width):
            raise ValueError(f"shift={self.shift} must be less than the {height}×{width} pixels of the images")

    def __call__(self, images: Tensor, seed: int, step: int, batch_size: int, part: slice = slice(None)) -> Tensor:
        """Varied images, uint8 (b, C, H, W), like those that came.

        Args:
            images: part of a batch.
            seed: of the run.
            step: of the run.
            batch_size: B, of the whole batch.
            part: of it, which these b images are.
        """
        if not self.flip and not self.shift:
            return images
        height, width = images.shape[-2:]
        device = images.device
        generator = stream(seed, AUGMENTATION, step, device=device)
        u = torch.rand(3, batch_size, generator=generator, device=device)[:, part, None]  # (3, b, 1)
        down, right = (u[1:] * (2 * self.shift + 1)).long().clamp(max=2 * self.shift) - self.shift  # each (b, 1)
        rows = (torch.arange(height, device=device) - down).clamp(0, height - 1)  # (b, H)
        columns = (torch.arange(width, device=device) - right).clamp(0, width - 1)  # (b, W)
        if self.flip:
            columns = torch.where(u[0] < 0.5, width - 1 - columns, columns)
        image = torch.arange(len(images), device=device)[:, None, None]
        varied = images.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]]  # (b, H, W, C)
        return varied.permute(0, 3, 1, 2).contiguous()

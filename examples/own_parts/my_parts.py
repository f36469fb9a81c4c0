"""Parts of your own: a data set and a network. Copy this folder, and change what you like.

cd examples/own_parts
python ../../train.py --config-dir conf data=discs model=net
"""

import torch
from torch import Tensor, nn

from diffusion.data.images import ImageData, Images
from diffusion.networks.layers import Conditioning


def discs(n: int = 2000, size: int = 16, seed: int = 0) -> ImageData:
    """Coloured discs and rings on black, drawn by arithmetic; their class is their shape, 0 for a disc, 1 for a ring.

    Args:
        n: training images; a fifth as many are held out as test images.
        size: height and width in pixels.
        seed: of places, sizes and colours.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> Images:
        labels = torch.arange(count) % 2
        colour, radius, y, x = torch.rand(count, 6, generator=generator).split([3, 1, 1, 1], dim=1)
        radius = size * (0.15 + 0.2 * radius)[..., None]  # (N, 1, 1)
        grid = torch.arange(size) + 0.5
        down = grid[:, None] - (radius + (size - 2 * radius) * y[..., None])  # (N, H, 1) from the centre
        across = grid[None, :] - (radius + (size - 2 * radius) * x[..., None])  # (N, 1, W)
        distance = (down**2 + across**2).sqrt()  # (N, H, W)
        hole = torch.where(labels == 1, 0.5, 0.0)[:, None, None] * radius
        inside = (radius - distance + 0.5).clamp(0, 1) * (distance - hole + 0.5).clamp(0, 1)
        inside = torch.where(hole > 0, inside, (radius - distance + 0.5).clamp(0, 1))
        colour = 0.3 + 0.7 * colour / colour.amax(dim=1, keepdim=True)
        pixels = 255 * colour[:, :, None, None] * inside[:, None]  # (N, 3, H, W)
        return Images(pixels.round().to(torch.uint8), labels)

    return ImageData("discs", draw(n), draw(n // 5), ["disc", "ring"])


class Net(nn.Module):
    """Residual blocks of 3×3 convolutions that look further and further; time and class shift and scale each of them.

    Args:
        channels, image_size, num_classes, out_channels: given by the run, from its data; every network takes them.
        width: of every layer.
        blocks: each looks twice as far as the one before.
    """

    def __init__(
        self,
        channels: int,
        image_size: int | tuple[int, int],
        num_classes: int = 0,
        out_channels: int | None = None,
        width: int = 48,
        blocks: int = 4,
    ) -> None:
        super().__init__()
        if blocks < 1:
            raise ValueError(f"blocks={blocks} must be at least 1")
        self.num_classes = num_classes
        self.conditioning = Conditioning(width, num_classes, hidden=True)
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.norms = nn.ModuleList(nn.GroupNorm(1, width) for _ in range(blocks))
        self.shifts = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(blocks))
        far = [2 ** (k % 4) for k in range(blocks)]
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=d, dilation=d) for d in far)
        self.last = nn.Conv2d(width, out_channels or channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), t (B,) in 0..1000, labels (B,) in 0..K or None → (B, out_channels, H, W)."""
        vector = self.conditioning(t, labels)
        x = self.first(x)
        for norm, shift, conv in zip(self.norms, self.shifts, self.convs, strict=True):
            scale, bias = shift(vector)[:, :, None, None].chunk(2, dim=1)
            x = x + conv(nn.functional.silu(norm(x) * (1 + scale) + bias))
        return self.last(nn.functional.silu(x))

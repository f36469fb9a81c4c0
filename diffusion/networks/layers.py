"""Parts that the networks share: time embedding, conditioning and the check of the image size.

Every network is made for images of so many `channels` and `image_size` pixels, (height, width) or the side of a square,
with `num_classes` K labels, or 0 for an unconditional one; it returns `out_channels`, None meaning those of the images.

A network that takes some sizes better than others says so by a static method `fitting_side`: from a side and its
settings to the least side from that one on, to which data.padding=auto pads. Without one, it takes any.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Size = int | Sequence[int]  # the side of a square, or (height, width)


def pair(size: Size) -> tuple[int, int]:
    """(height, width) of one number for a square, or of two."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def multiple_from(side: int, unit: int, least: int) -> int:
    """The least multiple of `unit` from `side` on that holds it at least so often."""
    return max(-(-side // unit), least) * unit


def sinusoidal_embedding(t: Tensor, width: int) -> Tensor:
    """Sines and cosines of t at `width // 2` frequencies from 1 down to 1/10,000 (Vaswani et al. 2017).

    Args:
        t: times in 0..1000, (B,).
        width: of the embedding; an odd one ends with a zero.

    Returns:
        (B, width).
    """
    half = width // 2
    frequencies = torch.exp(torch.arange(half, device=t.device) * (-math.log(10_000) / max(half - 1, 1)))
    angles = t[:, None] * frequencies  # (B, width // 2)
    embedding = torch.cat([angles.sin(), angles.cos()], dim=1)
    return F.pad(embedding, (0, width % 2))


class Conditioning(nn.Module):
    """Time and class → one vector per image.

    Args:
        width: of the vector.
        num_classes: K; the table of labels has K + 1 rows, the last for "no label". 0 means: no labels at all.
        hidden: put a two-layer perceptron behind the sinusoidal embedding.
        sinusoid: width of that embedding, where there is a perceptron; None is `width`.
    """

    def __init__(self, width: int, num_classes: int, hidden: bool, sinusoid: int | None = None) -> None:
        super().__init__()
        self.sinusoid = width if sinusoid is None else sinusoid
        self.time = (
            nn.Sequential(nn.Linear(self.sinusoid, width), nn.SiLU(), nn.Linear(width, width))
            if hidden
            else nn.Identity()
        )
        self.label = nn.Embedding(num_classes + 1, width) if num_classes else None

    def forward(self, t: Tensor, labels: Tensor | None) -> Tensor:
        """t (B,) in 0..1000 and labels (B,) in 0..K or None → (B, width)."""
        vector = self.time(sinusoidal_embedding(t, self.sinusoid))
        if self.label is not None:
            assert labels is not None
            vector = vector + self.label(labels)
        return vector


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ/√d) v of (B, heads, N, d) each.

    On CPUs always in fp32: there the gradient of PyTorch's fused attention is 3 to 15 times slower in bf16.
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(q, k, v)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(q.dtype)


class GroupNorm(nn.GroupNorm):
    """Group normalisation that leaves bf16 for fp32 on CPUs, where PyTorch's own is three times faster in fp32."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and x.dtype == torch.bfloat16:
            x = x.float()
        return super().forward(x)


def zero(layer: nn.Module) -> nn.Module:
    """The layer with all its weights at zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def check_shape(image_size: Size, halvings: int, widths: dict[str, int], groups: int = 1) -> None:
    """Raise `ValueError` for widths that are no positive multiples of `groups`, or an image that gets too small."""
    if groups < 1:
        raise ValueError(f"groups={groups} must be at least 1")
    for name, value in widths.items():
        most = 65_536 if name.endswith("width") else 256
        if value > most:
            raise ValueError(f"{name}={value} must be at most {most}")
        if value < 1 or value % groups:
            rule = "at least 1" if groups == 1 else f"a positive multiple of {groups}"
            raise ValueError(f"{name}={value} must be {rule}")
    height, width = pair(image_size)
    if min(height, width) >> halvings < 2:
        raise ValueError(
            f"images of {height}×{width} pixels cannot be halved {halvings} times: use fewer levels, "
            f"data.padding=auto, or at least {2 << halvings} pixels"
        )


def check_patch(image_size: Size, patch: int) -> None:
    """Raise `ValueError` where patches of so many pixels a side do not cut an image without a remainder."""
    height, width = pair(image_size)
    if patch < 1:
        raise ValueError(f"patch={patch} must be at least 1")
    if height % patch or width % patch:
        raise ValueError(
            f"patch={patch} does not divide the image size {height}×{width}: pad the images by data.padding=auto, or "
            "choose a patch that does"
        )

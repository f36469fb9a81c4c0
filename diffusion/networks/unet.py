"""The modern U-Net (after Dhariwal & Nichol 2021, https://arxiv.org/abs/2105.05233).

Residual blocks whose second normalisation is scaled and shifted by time and label, outputs that start at zero (so
every block starts as the identity and the network as zero), strided convolutions down, nearest-neighbour up, and
attention at the chosen levels. With `patch=2` the network works on 2×2 patches folded into channels: a quarter of
the pixels and of the cost, which is the largest saving there is at this image size.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion.networks.layers import (
    Conditioning,
    GroupNorm,
    Size,
    attend,
    check_patch,
    check_shape,
    multiple_from,
    pair,
    zero,
)


class ResidualBlock(nn.Module):
    """x + conv(silu(scale · norm(conv(silu(norm(x)))) + shift)), with scale and shift from the conditioning vector."""

    def __init__(self, in_width: int, out_width: int, vector_width: int, groups: int) -> None:
        super().__init__()
        self.norm_1 = GroupNorm(groups, in_width)
        self.conv_1 = nn.Conv2d(in_width, out_width, 3, padding=1)
        self.scale_shift = nn.Linear(vector_width, 2 * out_width)
        self.norm_2 = GroupNorm(groups, out_width)
        self.conv_2 = zero(nn.Conv2d(out_width, out_width, 3, padding=1))
        self.skip = nn.Conv2d(in_width, out_width, 1) if in_width != out_width else nn.Identity()

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        h = self.conv_1(F.silu(self.norm_1(x)))
        scale, shift = self.scale_shift(vector)[:, :, None, None].chunk(2, dim=1)
        h = self.conv_2(F.silu(self.norm_2(h) * (1 + scale) + shift))
        return self.skip(x) + h


class Attention(nn.Module):
    """x + projection(softmax(q kᵀ/√d) v) over all pixels, in heads of `head_width` channels."""

    def __init__(self, width: int, head_width: int, groups: int) -> None:
        super().__init__()
        self.heads = width // head_width
        self.norm = GroupNorm(groups, width)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.projection = zero(nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, h * w)
        q, k, v = qkv.transpose(-1, -2).unbind(dim=1)  # each (B, heads, H·W, C/heads)
        return x + self.projection(attend(q, k, v).transpose(-1, -2).reshape(b, c, h, w))


class Block(nn.Module):
    """A residual block, with attention behind it where `attentive` is true."""

    def __init__(
        self, in_width: int, out_width: int, vector_width: int, groups: int, head_width: int, attentive: bool
    ) -> None:
        super().__init__()
        self.residual = ResidualBlock(in_width, out_width, vector_width, groups)
        self.attention = Attention(out_width, head_width, groups) if attentive else nn.Identity()

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        return self.attention(self.residual(x, vector))


class UNet(nn.Module):
    """The modern U-Net.

    Args:
        channels, image_size, num_classes, out_channels: as for every network, see `diffusion.networks.layers`.
        width: channels at the highest resolution, a multiple of `groups`.
        multipliers: width of each level as a multiple of `width`; one level more than there are halvings.
        blocks: residual blocks per level on the way down (one more on the way up).
        attention: levels (0 is the highest resolution) with attention after each block; the middle always has it.
        patch: 2 folds 2×2 pixels into channels at the input, 1 does not; it divides height and width.
        head_width: channels per attention head.
        groups: of the GroupNorms.
        sinusoid_ratio: width of the time's sines and cosines as a multiple of `width`; at 1 the network is diffusers'
            `UNet2DModel` (see `diffusion.export.unet_2d`).
    """

    def __init__(
        self,
        channels: int,
        image_size: Size,
        num_classes: int = 0,
        out_channels: int | None = None,
        width: int = 64,
        multipliers: list[int] | None = None,
        blocks: int = 2,
        attention: list[int] | None = None,
        patch: int = 1,
        head_width: int = 32,
        groups: int = 8,
        sinusoid_ratio: int = 4,
    ) -> None:
        super().__init__()
        multipliers, attention = [1, 2, 2] if multipliers is None else multipliers, attention or []
        if not multipliers or min(multipliers) < 1:
            raise ValueError(f"multipliers={multipliers} must be a list of whole numbers of at least 1")
        check_patch(image_size, patch)
        check_shape([side // patch for side in pair(image_size)], len(multipliers) - 1, {"width": width}, groups)
        check_shape(image_size, 0, {"blocks": blocks, "head_width": head_width, "sinusoid_ratio": sinusoid_ratio})
        if any(not 0 <= level < len(multipliers) for level in attention):
            raise ValueError(f"attention={attention} must name levels from 0 to {len(multipliers) - 1}")
        attended = [multipliers[level] for level in attention] + [multipliers[-1]]
        if any(width * multiplier % head_width for multiplier in attended):
            raise ValueError(f"head_width={head_width} must divide the width of every level with attention")
        self.num_classes, self.patch = num_classes, patch
        out_channels = out_channels or channels
        vector_width = 4 * width
        self.conditioning = Conditioning(vector_width, num_classes, hidden=True, sinusoid=sinusoid_ratio * width)

        def block(in_width: int, out_width: int, attend: bool) -> Block:
            return Block(in_width, out_width, vector_width, groups, head_width, attend)

        self.first = nn.Conv2d(channels * patch**2, width, 3, padding=1)
        self.down, skips, current = nn.ModuleList(), [width], width
        for level, multiplier in enumerate(multipliers):
            if level:
                self.down.append(nn.Conv2d(current, current, 3, stride=2, padding=1))
                skips.append(current)
            for _ in range(blocks):
                self.down.append(block(current, multiplier * width, level in attention))
                current = multiplier * width
                skips.append(current)
        self.middle = nn.ModuleList([block(current, current, attend=True), block(current, current, attend=False)])
        self.up = nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for _ in range(blocks + 1):
                self.up.append(block(current + skips.pop(), multiplier * width, level in attention))
                current = multiplier * width
            if level:
                self.up.append(nn.Conv2d(current, current, 3, padding=1))
        self.last = nn.Sequential(
            GroupNorm(groups, current), nn.SiLU(), zero(nn.Conv2d(current, out_channels * patch**2, 3, padding=1))
        )

    @staticmethod
    def fitting_side(side: int, multipliers: list[int] | None = None, patch: int = 1, **others: object) -> int:
        """The least side, from this one on, that can be folded and halved without a remainder."""
        halvings = 2 if multipliers is None else len(multipliers) - 1
        return multiple_from(side, patch << halvings, least=2)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), t (B,) in 0..1000, labels (B,) in 0..K or None → (B, out_channels, H, W)."""
        vector = F.silu(self.conditioning(t, labels))
        x = self.first(F.pixel_unshuffle(x, self.patch))
        skips = [x]
        for layer in self.down:
            x = layer(x, vector) if isinstance(layer, Block) else layer(x)
            skips.append(x)
        for layer in self.middle:
            x = layer(x, vector)
        for layer in self.up:
            if isinstance(layer, Block):
                x = layer(torch.cat([x, skips.pop()], dim=1), vector)
            else:
                x = layer(F.interpolate(x, skips[-1].shape[-2:], mode="nearest"))
        return F.pixel_shuffle(self.last(x), self.patch)

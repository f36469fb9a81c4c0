"""The educational U-Net: every part is a pair of 3×3 convolutions, and every level ends in self-attention.

    w ─ 2w ─ 4w ─ 4w          max-pool on the way down (three levels here; more levels stay at 4w)
                   └ 8w … ┐   a bottleneck that doubles the width and comes back
    w ─ w ─ 2w ─ 4w ──────┘   bilinear on the way up, with the skip of the same size concatenated

The time enters each block through SiLU and a linear layer, added to every pixel; a label is added to the time.
With width 64, three levels and three bottleneck blocks this is the 23-million-parameter network that many first
diffusion tutorials use. Unlike theirs it upsamples to the size of the skip, so that 28×28 images (28, 14, 7, 3) work.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion.networks.layers import Conditioning, Size, check_shape, multiple_from


class DoubleConv(nn.Module):
    """Two 3×3 convolutions without bias, each followed by GroupNorm with one group; GELU between them.

    Args:
        residual: add the input and pass the sum through GELU; the widths must then agree.
        between: width between the two convolutions, `out_width` unless given.
    """

    def __init__(self, in_width: int, out_width: int, between: int | None = None, residual: bool = False) -> None:
        super().__init__()
        between = between or out_width
        self.residual = residual
        self.layers = nn.Sequential(
            nn.Conv2d(in_width, between, 3, padding=1, bias=False),
            nn.GroupNorm(1, between),
            nn.GELU(),
            nn.Conv2d(between, out_width, 3, padding=1, bias=False),
            nn.GroupNorm(1, out_width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x + self.layers(x)) if self.residual else self.layers(x)


class TimedConvs(nn.Module):
    """A residual DoubleConv, one that changes the width, and the conditioning vector added to every pixel."""

    def __init__(self, in_width: int, out_width: int, between: int, time_width: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            DoubleConv(in_width, in_width, residual=True), DoubleConv(in_width, out_width, between)
        )
        self.time = nn.Sequential(nn.SiLU(), nn.Linear(time_width, out_width))

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        return self.convs(x) + self.time(vector)[:, :, None, None]


class SelfAttention(nn.Module):
    """Multi-head self-attention over all pixels, then a feed-forward layer, each with a residual connection."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)  # (B, H·W, C)
        normed = self.norm(tokens)
        tokens = tokens + self.attention(normed, normed, normed, need_weights=False)[0]
        tokens = tokens + self.feed_forward(tokens)
        return tokens.transpose(1, 2).reshape(x.shape)


class UNetSimple(nn.Module):
    """The educational U-Net, flexible in every size.

    Args:
        channels, image_size, num_classes, out_channels: as for every network, see `diffusion.networks.layers`.
        width: w, a multiple of 4.
        levels: number of halvings, rounding down.
        bottleneck: number of DoubleConvs at the lowest resolution, at least 2 (one widens, one comes back).
        attention: levels (1 = the first halving) whose blocks, down to it and up from it, end in self-attention; None
            means all.
        time_width: of the conditioning vector.
    """

    def __init__(
        self,
        channels: int,
        image_size: Size,
        num_classes: int = 0,
        out_channels: int | None = None,
        width: int = 64,
        levels: int = 3,
        bottleneck: int = 3,
        attention: list[int] | None = None,
        time_width: int = 256,
    ) -> None:
        super().__init__()
        check_shape(image_size, levels, {"width": width}, groups=4)
        check_shape(image_size, levels, {"levels": levels, "time_width": time_width})
        if not 2 <= bottleneck <= 256:
            raise ValueError(f"bottleneck={bottleneck} must be from 2 (one block widens and one comes back) to 256")
        chosen = range(1, levels + 1) if attention is None else attention
        if any(not 1 <= level <= levels for level in chosen):
            raise ValueError(f"attention={attention} must name levels between 1 and levels={levels}")
        self.num_classes = num_classes
        self.conditioning = Conditioning(time_width, num_classes, hidden=False)
        widths = [width * min(2**level, 4) for level in range(levels + 1)]
        self.first = DoubleConv(channels, width)
        self.down, self.down_attention = nn.ModuleList(), nn.ModuleList()
        self.up, self.up_attention = nn.ModuleList(), nn.ModuleList()
        for level in range(1, levels + 1):
            wide, narrow = widths[level], widths[level - 1]
            self.down.append(TimedConvs(narrow, wide, wide, time_width))
            self.down_attention.append(SelfAttention(wide) if level in chosen else nn.Identity())
        for level in range(levels, 0, -1):
            skip = widths[level - 1]
            below = widths[-1] if level == levels else widths[level - 1]
            out = widths[max(level - 2, 0)]
            self.up.append(TimedConvs(below + skip, out, (below + skip) // 2, time_width))
            self.up_attention.append(SelfAttention(out) if level in chosen else nn.Identity())
        deep = 2 * widths[-1]
        self.bottleneck = nn.Sequential(
            DoubleConv(widths[-1], deep),
            *[DoubleConv(deep, deep) for _ in range(bottleneck - 2)],
            DoubleConv(deep, widths[-1]),
        )
        self.last = nn.Conv2d(width, out_channels or channels, 1)

    @staticmethod
    def fitting_side(side: int, levels: int = 3, **others: object) -> int:
        """The least side, from this one on, that can be halved without a remainder."""
        return multiple_from(side, 1 << levels, least=2)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), t (B,) in 0..1000, labels (B,) in 0..K or None → (B, out_channels, H, W)."""
        vector = self.conditioning(t, labels)
        x = self.first(x)
        skips = [x]
        for block, attend in zip(self.down, self.down_attention, strict=True):
            x = attend(block(F.max_pool2d(x, 2), vector))
            skips.append(x)
        x = self.bottleneck(skips.pop())
        for block, attend in zip(self.up, self.up_attention, strict=True):
            skip = skips.pop()
            x = F.interpolate(x, skip.shape[-2:], mode="bilinear", align_corners=True)
            x = attend(block(torch.cat([skip, x], dim=1), vector))
        return self.last(x)

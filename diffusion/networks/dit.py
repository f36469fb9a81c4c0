"""The diffusion transformer (Peebles & Xie 2023, https://arxiv.org/abs/2212.09748): no convolutions, no levels.

    image ─ patches ─ linear, + position ─ block ─ … ─ block ─ norm ─ linear ─ patches ─ image

The patches are the tokens of a transformer. Time and label, as one vector c, steer every block by shifting and scaling
what its two halves see, and by gating what they add:

    x ← x + gate₁ · attention((1 + scale₁) · norm(x) + shift₁)
    x ← x + gate₂ · perceptron((1 + scale₂) · norm(x) + shift₂)        all six are linear in silu(c)

That linear layer starts at zero ("adaLN-Zero", section 3.2), and so does the last layer of the network: every block
starts as the identity and the network as zero. Half the `patch` means four times as many tokens and at least four times
the cost; the paper finds that it pays.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion.networks.layers import (
    Conditioning,
    Size,
    attend,
    check_patch,
    check_shape,
    multiple_from,
    pair,
    sinusoidal_embedding,
    zero,
)


def patchify(x: Tensor, patch: int) -> Tensor:
    """Images (B, C, H, W) → patches row by row, the pixels of each in one vector: (B, H·W/patch², C·patch²)."""
    return F.pixel_unshuffle(x, patch).flatten(2).transpose(1, 2)


def unpatchify(tokens: Tensor, patch: int, rows: int) -> Tensor:
    """The inverse of `patchify`: so many rows of patches (B, N, C·patch²) → (B, C, patch·rows, patch·N/rows)."""
    return F.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (rows, -1)), patch)


def position_embedding(rows: int, columns: int, width: int) -> Tensor:
    """Sines and cosines of the row in the first half of each vector, of the column in the second: (N, width)."""
    down, across = (sinusoidal_embedding(torch.arange(side), width // 2) for side in (rows, columns))
    return torch.cat([down.repeat_interleave(columns, dim=0), across.repeat(rows, 1)], dim=1)


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """(1 + scale) · norm(x) + shift: LayerNorm over the last axis, without weights of its own."""
    return F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift


class Attention(nn.Module):
    """projection(softmax(q kᵀ/√d) v) over all tokens (B, N, width), in heads of d = width/heads channels."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(2, (3, self.heads, -1))  # (B, N, 3, heads, d)
        q, k, v = qkv.transpose(1, 3).unbind(dim=2)  # each (B, heads, N, d)
        return self.projection(attend(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a perceptron, each shifted, scaled and gated by the conditioning vector; at first the identity."""

    def __init__(self, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.modulation = zero(nn.Linear(width, 6 * width))
        self.attention = Attention(width, heads)
        hidden = mlp_ratio * width
        self.perceptron = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        """x (B, N, width), vector (B, width) → (B, N, width)."""
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(vector)[:, None].chunk(6, dim=2)
        x = x + gate_1 * self.attention(modulated_norm(x, shift_1, scale_1))
        return x + gate_2 * self.perceptron(modulated_norm(x, shift_2, scale_2))


class DiT(nn.Module):
    """The diffusion transformer.

    Args:
        channels, image_size, num_classes, out_channels: as for every network, see `diffusion.networks.layers`.
        width: channels of each token, a multiple of 4 (sine and cosine of row and column) and of `heads`.
        depth: number of blocks.
        heads: of each attention.
        patch: side of the patches, in pixels; it divides height and width.
        mlp_ratio: width of the perceptrons' hidden layer as a multiple of `width`.
    """

    position: Tensor

    def __init__(
        self,
        channels: int,
        image_size: Size,
        num_classes: int = 0,
        out_channels: int | None = None,
        width: int = 144,
        depth: int = 6,
        heads: int = 4,
        patch: int = 4,
        mlp_ratio: int = 4,
    ) -> None:
        super().__init__()
        out_channels = channels if out_channels is None else out_channels
        check_shape(image_size, 0, {"channels": channels, "out_channels": out_channels, "depth": depth})
        check_shape(image_size, 0, {"heads": heads, "mlp_ratio": mlp_ratio})
        check_shape(image_size, 0, {"width": width}, groups=4)
        if width % heads:
            raise ValueError(f"heads={heads} must divide the width {width}")
        check_patch(image_size, patch)
        rows, columns = (side // patch for side in pair(image_size))
        self.num_classes, self.patch = num_classes, patch
        self.conditioning = Conditioning(width, num_classes, hidden=True)
        self.first = nn.Linear(channels * patch**2, width)
        self.register_buffer("position", position_embedding(rows, columns, width), persistent=False)
        self.blocks = nn.ModuleList([Block(width, heads, mlp_ratio) for _ in range(depth)])
        self.modulation = zero(nn.Linear(width, 2 * width))
        self.last = zero(nn.Linear(width, out_channels * patch**2))

    @staticmethod
    def fitting_side(side: int, patch: int = 4, **others: object) -> int:
        """The least side, from this one on, that patches cut without a remainder."""
        return multiple_from(side, patch, least=1)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), t (B,) in 0..1000, labels (B,) in 0..K or None → (B, out_channels, H, W)."""
        vector = F.silu(self.conditioning(t, labels))
        tokens = self.first(patchify(x, self.patch)) + self.position
        for block in self.blocks:
            tokens = block(tokens, vector)
        shift, scale = self.modulation(vector)[:, None].chunk(2, dim=2)
        return unpatchify(self.last(modulated_norm(tokens, shift, scale)), self.patch, x.shape[-2] // self.patch)

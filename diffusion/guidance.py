"""Classifier-free guidance (Ho & Salimans 2022, https://arxiv.org/abs/2207.12598).

In training, the label of each image is dropped with a small probability, so that one network learns both p(x | y)
and p(x). In sampling, the difference between the two predictions is exaggerated:

    x̂_0 = x̂_0(∅) + scale · (x̂_0(y) − x̂_0(∅))

scale 0 is unconditional, 1 is conditional, more trades diversity for typical images. As x̂_0 is linear in the
network's output, this is the same as guiding ε or v.
"""

import torch
from torch import Tensor, nn

from diffusion.denoiser import Denoiser


class Guided(nn.Module):
    """A denoiser that wraps a denoiser: both predictions in one batched call.

    Args:
        denoiser: a conditional denoiser.
        scale: the guidance scale.
    """

    def __init__(self, denoiser: Denoiser, scale: float) -> None:
        super().__init__()
        self.denoiser, self.scale = denoiser, scale
        self.schedule, self.num_classes = denoiser.schedule, denoiser.num_classes

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """x̂_0 (B, C, H, W); arguments as in `Denoiser.forward`."""
        if labels is None or self.scale == 1:
            return self.denoiser(x_t, t, labels)
        null = torch.full_like(labels, self.num_classes)
        both = self.denoiser(torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([labels, null]))
        conditional, unconditional = both.chunk(2)
        return torch.lerp(unconditional, conditional, self.scale)


class ClassifierFree:
    """A label-conditional model: label dropout in training, guidance in sampling.

    Args:
        dropout: probability with which the label of an image is replaced by the null class, each image for itself.
        scale: guidance scale of the run's own samples; sampling may choose another.
    """

    conditional = True

    def __init__(self, dropout: float = 0.1, scale: float = 2.0) -> None:
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout={dropout} must lie between 0 and 1")
        if scale < 0:
            raise ValueError(f"scale={scale} must be 0 (unconditional), 1 (conditional) or more (guided)")
        if dropout == 0 and scale != 1:
            raise ValueError(
                f"dropout=0 never teaches the network to go without a label: guidance.scale={scale:g} must be 1"
            )
        if dropout == 1 and scale != 0:
            raise ValueError(f"dropout=1 never shows the network a label: guidance.scale={scale:g} must be 0")
        self.dropout, self.scale = dropout, scale

    def drop(self, labels: Tensor | None, u: Tensor, num_classes: int) -> Tensor | None:
        """labels (B,) with the null class wherever u (B,), uniform in [0, 1), lies below the dropout."""
        return None if labels is None else labels.masked_fill(u < self.dropout, num_classes)

    @property
    def passes(self) -> int:
        """Network evaluations for one denoised image: guidance asks with and without the label."""
        return 1 if self.scale == 1 else 2

    def guide(self, denoiser: Denoiser) -> nn.Module:
        """The denoiser that sampling calls."""
        return Guided(denoiser, self.scale)

    def describe(self) -> str:
        """For reports."""
        return f"guidance scale {self.scale:g}"


class Unconditional:
    """A model that never sees a label."""

    conditional = False
    dropout, scale, passes = 0.0, 1.0, 1

    def drop(self, labels: Tensor | None, u: Tensor, num_classes: int) -> Tensor | None:
        """No labels."""
        return None

    def guide(self, denoiser: Denoiser) -> nn.Module:
        """The denoiser itself."""
        return denoiser

    def describe(self) -> str:
        """For reports."""
        return "unconditional"

"""Guidance: the estimate of the model is pushed away from that of a poorer one.

    x̂_0 = x̂_0(poor) + scale · (x̂_0(good) − x̂_0(poor))

In classifier-free guidance (Ho & Salimans 2022, https://arxiv.org/abs/2207.12598) the poor one is the same network
without the label: in training, the label of each image is dropped with a small probability, so that one network learns
both p(x | y) and p(x). scale 0 is unconditional, 1 is conditional, more trades diversity for typical images. As x̂_0 is
linear in the network's output, this is the same as guiding ε or v. In autoguidance (Karras et al. 2024,
https://arxiv.org/abs/2406.02507) the poor one is a smaller model, or one that was trained for less long.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from diffusion.denoiser import Denoiser, Estimate, Estimator, Wrapped, per_image
from diffusion.schedule import levels_at


class Guided(Wrapped):
    """A denoiser seen through a scale, against itself without labels or against another one.

    Args:
        denoiser: the good one.
        scale: the guidance scale, one for all classes or one for each.
        interval: σ/α between which there is guidance, (low, high]; None or [] is everywhere (Kynkäänniemi et al. 2024,
            https://arxiv.org/abs/2404.07724). Outside it the network is evaluated once only.
        rescale: share of the way back to the contrast of the unguided estimate, the standard deviation of its pixels
            (Lin et al. 2023, https://arxiv.org/abs/2305.08891, eq. 15–16, here for x̂_0).
        plus_plus: CFG++ (Chung et al. 2024, https://arxiv.org/abs/2406.08070): the noise that a step carries on is that
            of the poor estimate, and the scale lies between 0 and 1. Every step guides by the scale anew, so that the
            guidance grows with their number: for 10 to 50 steps.
        weaker: the poor one; None is `denoiser` without labels, both in one batched call.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        scale: float | Sequence[float],
        interval: Sequence[float] | None = None,
        rescale: float = 0.0,
        plus_plus: bool = False,
        weaker: Denoiser | None = None,
    ) -> None:
        super().__init__(denoiser)
        self.weaker, self.scale, self.interval, self.rescale = weaker, scale, interval, rescale
        self.plus_plus = plus_plus
        self._scales: Tensor | None = None

    def estimate(self, x_t: Tensor, t: float, labels: Tensor | None = None) -> Estimate:
        unguided = self.scale == 1 and not self.plus_plus
        if unguided or not self.inside(t) or (labels is None and self.weaker is None):
            return self.denoiser.estimate(x_t, t, labels)
        good, poor = self.both(x_t, t, labels)
        x_0 = poor.x_0 + self.scales(x_t, labels) * (good.x_0 - poor.x_0)
        if self.rescale:
            contrast = (image.flatten(1).std(dim=1) for image in (good.x_0, x_0))
            ratio = next(contrast) / next(contrast).clamp(min=1e-6)
            x_0 = x_0 * per_image(1 + self.rescale * (ratio - 1), x_0)
        return Estimate(x_0, kept=poor.x_0 if self.plus_plus else None, share=good.share)

    def inside(self, t: float) -> bool:
        """Whether there is guidance at t."""
        if not self.interval:
            return True
        (level,) = levels_at(self.schedule, [t])
        return self.interval[0] < level.ratio <= self.interval[1]

    def both(self, x_t: Tensor, t: float, labels: Tensor | None) -> tuple[Estimate, Estimate]:
        """The good estimate and the poor one."""
        if self.weaker is not None:
            return self.denoiser.estimate(x_t, t, labels), self.weaker.estimate(x_t, t, labels)
        assert labels is not None
        null = torch.full_like(labels, self.num_classes)
        if self.scale == 0:
            poor = self.denoiser.estimate(x_t, t, null)
            return poor, poor
        twice = self.denoiser.estimate(torch.cat([x_t, x_t]), t, torch.cat([labels, null]))
        labelled, unlabelled = twice.x_0.chunk(2)
        share = None if twice.share is None else twice.share.chunk(2)[0]
        return Estimate(labelled, share=share), Estimate(unlabelled)

    def scales(self, x_t: Tensor, labels: Tensor | None) -> Tensor | float:
        """The scale of each image, (B, 1, 1, 1), or one for all."""
        if not isinstance(self.scale, Sequence):
            return self.scale
        assert labels is not None
        if self._scales is None:
            self._scales = torch.tensor(self.scale, device=x_t.device, dtype=x_t.dtype)
        return per_image(self._scales[labels], x_t)


@dataclass(eq=False)
class _Scaled:
    """What all guidance by a scale has in common; arguments as in `Guided`."""

    _: KW_ONLY
    scale: float | list[float] = 2.0
    interval: list[float] | None = None
    rescale: float = 0.0
    plus_plus = False

    def __post_init__(self) -> None:
        scale, interval, rescale = self.scale, self.interval, self.rescale
        scales = list(scale) if isinstance(scale, Sequence) else [scale]
        if not scales or min(scales) < 0:
            raise ValueError(f"scale={scale} must be 0 (unconditional), 1 (conditional) or more (guided)")
        if self.plus_plus and max(scales) > 1:
            raise ValueError(f"scale={scale} must lie between 0 and 1 with guidance.plus_plus=true (CFG++)")
        if interval and (len(interval) != 2 or not 0 <= interval[0] < interval[1]):
            raise ValueError(
                f"interval={interval} must be [low, high] of σ/α with 0 ≤ low < high, for example [0.2, 5]; or []"
            )
        if not 0 <= rescale <= 1:
            raise ValueError(f"rescale={rescale} must lie between 0 and 1")

    def check(self, num_classes: int) -> None:
        """Raise `ValueError` unless there is one scale for all classes or one for each."""
        if isinstance(self.scale, Sequence) and len(self.scale) != num_classes:
            raise ValueError(f"scale={self.scale} must be one number, or one for each of the {num_classes} classes")

    def describe(self) -> str:
        """For reports."""
        scale = self.scale
        shown = "per class " + ", ".join(f"{s:g}" for s in scale) if isinstance(scale, Sequence) else f"{scale:g}"
        text = f"{'CFG++' if self.plus_plus else 'guidance'} scale {shown}"
        if self.interval:
            text += f" at σ/α from {self.interval[0]:g} to {self.interval[1]:g}"
        return text + (f", rescaled {self.rescale:g}" if self.rescale else "")


@dataclass(eq=False)
class ClassifierFree(_Scaled):
    """A label-conditional model: label dropout in training, guidance in sampling.

    Args:
        dropout: probability with which the label of an image is replaced by the null class, each image for itself.
        scale, interval, rescale, plus_plus: of the run's own samples, as in `Guided`; sampling may choose others.
    """

    conditional = True

    dropout: float = 0.1
    _: KW_ONLY
    plus_plus: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"dropout={self.dropout} must lie between 0 and 1")
        super().__post_init__()
        scale = self.scale
        if self.dropout == 0 and (scale != 1 or self.plus_plus):
            shown = scale if isinstance(scale, list) else f"{scale:g}"
            wrong = "plus_plus=true must be false" if self.plus_plus else f"scale={shown} must be 1"
            raise ValueError(f"dropout=0 never teaches the network to go without a label: guidance.{wrong}")
        if self.dropout == 1 and scale != 0:
            raise ValueError(f"dropout=1 never shows the network a label: guidance.scale={scale} must be 0")

    def drop(self, labels: Tensor | None, u: Tensor, num_classes: int) -> Tensor | None:
        """labels (B,) with the null class wherever u (B,), uniform in [0, 1), lies below the dropout."""
        return None if labels is None else labels.masked_fill(u < self.dropout, num_classes)

    def guide(self, denoiser: Denoiser) -> Estimator:
        """The denoiser that sampling calls."""
        return Guided(denoiser, self.scale, self.interval, self.rescale, self.plus_plus)


class Automatic(ClassifierFree):
    """`ClassifierFree` for images with labels; the config of a run on images without names `Unconditional` instead."""


class Unconditional:
    """A model that never sees a label."""

    conditional = False
    dropout, scale, plus_plus = 0.0, 1.0, False

    def check(self, num_classes: int) -> None:
        """There is nothing that could be wrong."""

    def drop(self, labels: Tensor | None, u: Tensor, num_classes: int) -> Tensor | None:
        """No labels."""
        return None

    def guide(self, denoiser: Denoiser) -> Estimator:
        """The denoiser itself."""
        return denoiser

    def describe(self) -> str:
        return "unconditional"


@dataclass(eq=False)
class Autoguidance(_Scaled):
    """Guidance of a trained model by a weaker one, with or without labels.

    Args:
        weaker: the weaker model, with the schedule of the stronger.
        conditional: whether both take labels.
        name: of the weaker one, for reports.
        scale, interval, rescale: as in `Guided`.
    """

    weaker: Denoiser
    conditional: bool
    name: str

    def guide(self, denoiser: Denoiser) -> Estimator:
        return Guided(denoiser, self.scale, self.interval, self.rescale, weaker=self.weaker)

    def describe(self) -> str:
        return f"auto{super().describe()} by {self.name}"


Guidance = ClassifierFree | Unconditional | Autoguidance

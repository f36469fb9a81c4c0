"""The model: a network, the noise schedule it was made for and what it predicts, as one function x_t → x̂_0."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from diffusion.objective import Objective
from diffusion.schedule import Level, Schedule


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """(B,) → (B, 1, 1, 1), so that one number per image multiplies its pixels."""
    return values.view(-1, *[1] * (like.ndim - 1))


def beyond(x_0: Tensor, margin: float) -> Tensor:
    """Pixels of −1 and 1 at −(1 + margin) and 1 + margin; all others as they are."""
    return x_0 + margin * ((x_0 >= 1).to(x_0.dtype) - (x_0 <= -1).to(x_0.dtype))


class Estimate(NamedTuple):
    """What a sampler may ask a denoiser for.

    Args:
        x_0: the estimate x̂_0 of the clean image (B, C, H, W).
        kept: the estimate whose noise a step carries on, where it is another one than x̂_0 (CFG++), or None.
        share: learned variance: where between β̃ (0) and β (1) its logarithm lies, (B, C, H, W), or None.
    """

    x_0: Tensor
    kept: Tensor | None = None
    share: Tensor | None = None


class Estimator(nn.Module):
    """What samplers draw with: x_t, t, labels → `Estimate`. A subclass writes `estimate`."""

    schedule: Schedule
    num_classes: int
    needs_signal = False  # True where x̂_0 has no bound where no image is left, that is for a prediction of the noise
    learns_variance = False  # True where an `Estimate` has a share of the variance
    plus_plus = False  # True where it has another estimate whose noise is kept
    margin = 0.0  # clean images lie in ±(1 + margin): `beyond`

    def estimate(self, x_t: Tensor, t: float, labels: Tensor | None = None) -> Estimate:
        """x̂_0 and what goes with it.

        Args:
            x_t: noisy images (B, C, H, W).
            t: time in (0, 1], the same for all.
            labels: classes (B,), `num_classes` for "none"; None means "none" for all.
        """
        raise NotImplementedError

    def forward(self, x_t: Tensor, t: Any, labels: Tensor | None = None) -> Tensor:
        """The estimate x̂_0 (B, C, H, W) alone; arguments as in `estimate`."""
        return self.estimate(x_t, t, labels).x_0

    def before_step(self, denoise: Callable[[Tensor, Level], Estimate], x_t: Tensor, t: Level, s: Level) -> Tensor:
        """What x_t (B, C, H, W) becomes before a sampler's step from level t to s; most leave it as it is.

        Args:
            denoise: denoise(x_t, t) is the estimate of this very object, as the sampler's step sees it.
        """
        return x_t


class Wrapped(Estimator):
    """Another estimator, seen through something; a subclass writes `estimate` with the help of `denoiser`."""

    def __init__(self, denoiser: Estimator) -> None:
        super().__init__()
        self.denoiser, self.schedule, self.num_classes = denoiser, denoiser.schedule, denoiser.num_classes
        self.learns_variance, self.plus_plus = denoiser.learns_variance, denoiser.plus_plus
        self.needs_signal, self.margin = denoiser.needs_signal, denoiser.margin


class Denoiser(Estimator):
    """x̂_0 = c_skip(t) · x_t + c_out(t) · network(c_in(t) · x_t, 1000 t, labels).

    Args:
        network: called with x (B, C, H, W), times in 0..1000 (B,) and labels (B,) or None; returns the shape of x, or
            twice the channels where it also learns the variance. Its attribute `num_classes` is 0 for an unconditional
            network; label `num_classes` is the null class.
        schedule: t → (α, σ).
        objective: what the network predicts.
        learns_variance: whether the network has a second head for the variance.
        margin: of the loss, see `beyond`.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        objective: Objective,
        learns_variance: bool = False,
        margin: float = 0.0,
    ) -> None:
        super().__init__()
        end, _ = schedule(torch.ones(1, dtype=torch.float64))
        if objective.needs_signal and float(end) == 0:
            raise ValueError(
                f"objective={objective.name} cannot be used with {schedule.described}, which leaves no signal at "
                "t = 1: choose objective=v"
            )
        self.network, self.schedule, self.objective = network, schedule, objective
        self.learns_variance, self.num_classes = learns_variance, int(network.num_classes)  # type: ignore[arg-type]
        self.needs_signal, self.margin = objective.needs_signal, margin
        self.evaluated = 0  # images that the network was evaluated on, for reports

    def estimate(self, x_t: Tensor, t: Tensor | float, labels: Tensor | None = None) -> Estimate:
        """x̂_0, and the learned variance where there is one; the times t may also differ, (B,)."""
        t = x_t.new_full((len(x_t),), t) if isinstance(t, float) else t
        c_skip, c_out, c_in = (per_image(c, x_t) for c in self.objective.coefficients(*self.schedule(t)))
        prediction, share = self.predict(c_in * x_t, t, labels)
        return Estimate(c_skip * x_t + c_out * prediction, share=share)

    def predict(self, x: Tensor, t: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The network's output F (B, C, H, W) for x = c_in · x_t, and the share of the learned variance or None."""
        if self.num_classes == 0:
            labels = None
        elif labels is None:
            labels = torch.full((len(x),), self.num_classes, device=x.device)
        if not torch.compiler.is_compiling():  # of a traced graph this would fix the batch size
            self.evaluated += len(x)
        output = self.network(x, 1000 * t, labels).to(x.dtype)  # the network may run under bf16 autocast
        if not self.learns_variance:
            return output, None
        prediction, share = output.chunk(2, dim=1)
        return prediction, (share + 1) / 2

"""UniPC (Zhao et al. 2023, https://arxiv.org/abs/2302.04867), a predictor and corrector without further evaluations.

In λ = log(α/σ) the exact step from t to s, with h = λ_s − λ_t, is

    x_s = σ_s/σ_t · x_t + α_s (1 − e^{−h}) · x̂_0(t) + α_s · ∫ e^{λ − λ_s} (x̂_0(λ) − x̂_0(t)) dλ.

The integral is taken over the polynomial through the last estimates. Once the network has been evaluated at s its
estimate there is one more point of the polynomial: with it the same step is taken again, more exactly, before the next.

With p points the error falls with the power p + 1 of the steps, on grids that are about even in λ (log_snr, karras).
Where a schedule ends in pure noise, λ → −∞, even steps in t begin with very long ones, and the power stays near 2.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion.sampler.base import Denoise, Draw, Sampler
from diffusion.schedule import Level


class Point(NamedTuple):
    """Where the sampler has been: the level, x there after correction, and the estimate x̂_0."""

    level: Level
    x_t: Tensor
    x_0: Tensor


def weights(h: float, ratios: Sequence[float]) -> list[float]:
    """What the differences (x̂_0(λ_i) − x̂_0(t))/r_i at λ_i = λ_t + r_i h are multiplied with, in units of 1 − e^{−h}.

    One point weighs 1/2, right to first order ("B_2(h)"); several weigh such that polynomials are integrated exactly.
    """
    if len(ratios) == 1:
        return [0.5]
    # The k-th moment ∫ e^{λ − λ_s} ((λ − λ_t)/h)^k dλ, k = 1, 2, …, by parts from the one before.
    moments, moment = [], 1 - math.exp(-h)
    for k in range(1, len(ratios) + 1):
        moment = 1 - k / h * moment
        moments.append(moment / (1 - math.exp(-h)))
    powers = torch.tensor([[ratio**k for ratio in ratios] for k in range(len(ratios))], dtype=torch.float64)
    return torch.linalg.solve(powers, torch.tensor(moments, dtype=torch.float64)).tolist()


def solve(s: Level, here: Point, others: Sequence[Point]) -> Tensor:
    """x_s from x_t, with the estimate at t and those at other levels, before it or (one at s itself) after it."""
    t = here.level
    x_s = s.sigma / t.sigma * here.x_t + (s.alpha - t.alpha * s.sigma / t.sigma) * here.x_0
    if not others:  # always so at s = 0, where λ is infinite
        return x_s
    h = s.half_log_snr - t.half_log_snr
    ratios = [(other.level.half_log_snr - t.half_log_snr) / h for other in others]
    for other, ratio, weight in zip(others, ratios, weights(h, ratios), strict=True):
        x_s = x_s + s.alpha * -math.expm1(-h) * weight / ratio * (other.x_0 - here.x_0)
    return x_s


@dataclass(eq=False)
class UniPC(Sampler):
    """UniPC; `clip` is None here unless it is said.

    Args:
        order: estimates that the predictor looks at, 1 to 3; the corrector looks at one more.
    """

    steps: int = 12
    order: int = 2
    clip: bool | None = field(default=None, kw_only=True)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.order <= 3:
            raise ValueError(f"order={self.order} must be 1, 2 or 3")

    def describe(self) -> str:
        return f"{super().describe()}, order {self.order}"

    def step(self, denoise: Denoise, x_t: Tensor, t: Level, s: Level, noise: Draw, past: list) -> Tensor:
        """`past` holds the points so far, the oldest first; all but the last three are dropped."""
        here = Point(t, x_t, denoise(x_t, t).x_0)
        k = len(past)
        if past:  # the last step again, now with the estimate where it led
            order = min(self.order, k, self.steps - k + 1)
            here = here._replace(x_t=solve(t, past[-1], [*reversed(past[k - order : k - 1]), here]))
        order = 1 if s.sigma == 0 else min(self.order, k + 1, self.steps - k)
        past.append(here)
        if k >= 3:
            past[k - 3] = None
        return solve(s, here, list(reversed(past[k - order + 1 : k])))

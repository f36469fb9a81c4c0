"""Euler's and Heun's methods (Karras et al. 2022, https://arxiv.org/abs/2206.00364, algorithms 1, 2), for any schedule.

Divide x_t by α_t + c σ_t, and let τ = σ_t/(α_t + c σ_t). Then the path is

    x̃ = (1 − c τ) x̂_0 + τ ε̂,    dx̃/dτ = ε̂ − c x̂_0:

with c = 0, τ = σ/α is the time of EDM, with c = 1 that of a flow, and finite even where nothing of the image is left.
Euler's step is the same for both, and equal to DDIM's with η = 0; Heun's is the trapezoidal rule in τ.

"Churn" adds fresh noise before a step and lets it take away that much more, which mends errors made before.
"""

import math
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from diffusion.sampler.base import Denoise, Draw, Sampler
from diffusion.schedule import Level, levels_at

FAR = 100.0  # σ/α beyond which nothing of the image is left to see, and steps in σ/α would be too long


@dataclass(eq=False)
class Euler(Sampler):
    """Euler's method.

    Args:
        churn: S_churn of EDM, how much noise is added over the whole way; 0 is deterministic.
        churn_low, churn_high: σ/α between which noise is added.
        churn_noise: standard deviation of the added noise, against what is then taken away.
    """

    carries_noise = True

    steps: int = 50
    _: KW_ONLY
    churn: float = 0.0
    churn_low: float = 0.05
    churn_high: float = 50.0
    churn_noise: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.churn < 0:
            raise ValueError(f"churn={self.churn} must be 0 (deterministic) or more")
        if not 0 <= self.churn_low <= self.churn_high:
            raise ValueError(f"churn_low={self.churn_low} must be 0 or more, and at most churn_high={self.churn_high}")
        if self.churn_noise <= 0:
            raise ValueError(f"churn_noise={self.churn_noise} must be positive")

    def describe(self) -> str:
        return super().describe() + (f", churn {self.churn:g}" if self.churn else "")

    def step(self, denoise: Denoise, x_t: Tensor, t: Level, s: Level, noise: Draw, past: list) -> Tensor:
        if self.churn and self.churn_low <= t.ratio <= self.churn_high:
            x_t, t = self.stir(denoise, x_t, t, noise)
        return self.advance(denoise, x_t, t, s)

    def stir(self, denoise: Denoise, x_t: Tensor, t: Level, noise: Draw) -> tuple[Tensor, Level]:
        """x at a higher level, where the schedule has one."""
        wanted = t.ratio * (1 + min(self.churn / self.steps, math.sqrt(2) - 1))
        log_snr = torch.tensor([-2 * math.log(wanted)], dtype=torch.float64)
        (higher,) = levels_at(denoise.schedule, denoise.schedule.time_at(log_snr).tolist())
        if higher.t <= t.t:
            return x_t, t
        added = math.sqrt(max(higher.ratio**2 - t.ratio**2, 0.0))
        return higher.alpha * (x_t / t.alpha + added * self.churn_noise * noise()), higher

    def advance(self, denoise: Denoise, x_t: Tensor, t: Level, s: Level) -> Tensor:
        """The deterministic step from t to s."""
        x_0, kept, _ = denoise(x_t, t)
        return s.alpha * x_0 + s.sigma / t.sigma * (x_t - t.alpha * (x_0 if kept is None else kept))


@dataclass(eq=False)
class Heun(Euler):
    """Heun's method: two evaluations a step, but for the last; with churn as for `Euler`.

    Args:
        variable: what τ is: "flow" σ/(α + σ), or "sigma" σ/α, as in EDM.
    """

    carries_noise = False

    steps: int = 25
    _: KW_ONLY
    variable: str = "flow"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variable not in ("flow", "sigma"):
            raise ValueError(f"variable={self.variable} must be 'flow' or 'sigma'")

    @property
    def evaluations(self) -> int:
        return 2 * self.steps - 1

    def describe(self) -> str:
        return super().describe() + (", in sigma" if self.variable == "sigma" else "")

    def advance(self, denoise: Denoise, x_t: Tensor, t: Level, s: Level) -> Tensor:
        c = 0.0 if self.variable == "sigma" and t.ratio < FAR else 1.0

        def slope(x: Tensor, at: Level) -> Tensor:
            x_0 = denoise(x, at).x_0
            return (x - at.alpha * x_0) / at.sigma - c * x_0  # dx̃/dτ

        scale_t, scale_s = t.alpha + c * t.sigma, s.alpha + c * s.sigma
        length = s.sigma / scale_s - t.sigma / scale_t
        first = slope(x_t, t)
        x_s = scale_s * (x_t / scale_t + length * first)
        if s.sigma == 0:
            return x_s
        return scale_s * (x_t / scale_t + length * (first + slope(x_s, s)) / 2)

"""DDPM's ancestral sampling and DDIM (Song et al. 2021, https://arxiv.org/abs/2010.02502, eq. 12) are one formula,

    x_s = α_s x̂_0 + √(σ_s² − η² β̃) ε̂ + η √β̃ z,     β̃ = σ_s²/σ_t² · (σ_t² − α_t²/α_s² · σ_s²),

where β̃ is the variance of the posterior q(x_s | x_t, x_0): η = 0 is deterministic, η = 1 is DDPM. A deterministic step
is also the Euler step of EDM's ODE in σ/α, and that of a flow.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from diffusion.denoiser import Estimate, Estimator
from diffusion.sampler.base import Denoise, Draw, Sampler
from diffusion.schedule import Level


@dataclass(eq=False)
class DDIM(Sampler):
    """DDIM with any η; η = 1 is DDPM's ancestral sampling (Ho et al. 2020, https://arxiv.org/abs/2006.11239, eq. 7).

    Args:
        eta: share of the posterior's standard deviation that is drawn afresh: 0 is deterministic, 1 is DDPM.
        variance: what is drawn at η = 1: "posterior" β̃, or "forward", DDPM's other choice, the variance β of the
            forward step, or "learned", what the network says between them; η scales it alike.
    """

    carries_noise = True

    steps: int = 50
    eta: float = 0.0
    variance: str = "posterior"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta={self.eta} must lie between 0 (deterministic) and 1 (DDPM)")
        if self.variance not in ("posterior", "forward", "learned"):
            raise ValueError(f"variance={self.variance} must be 'posterior', 'forward' or 'learned'")

    def describe(self) -> str:
        drawn = f", {self.variance} variance" if self.variance != "posterior" and self.eta else ""
        return f"{super().describe()}, eta {self.eta:g}{drawn}"

    def check(self, denoiser: Estimator) -> None:
        super().check(denoiser)
        if self.variance == "learned" and not denoiser.learns_variance:
            raise ValueError(
                "sampler.variance=learned needs a model trained with loss=hybrid: choose posterior or forward"
            )

    def step(self, denoise: Denoise, x_t: Tensor, t: Level, s: Level, noise: Draw, past: list) -> Tensor:
        return self.advance(denoise(x_t, t), x_t, t, s, noise)

    def advance(self, found: Estimate, x_t: Tensor, t: Level, s: Level, noise: Draw) -> Tensor:
        """x_s from x_t and the estimate there; the other arguments as in `step`."""
        x_0, kept, share = found
        eps = (x_t - t.alpha * (x_0 if kept is None else kept)) / t.sigma
        forward = max(t.sigma**2 - (t.alpha / s.alpha * s.sigma) ** 2, 0.0)
        posterior = forward * (s.sigma / t.sigma) ** 2
        x_s = s.alpha * x_0 + math.sqrt(max(s.sigma**2 - self.eta**2 * posterior, 0.0)) * eps
        if self.eta == 0 or s.sigma == 0:
            return x_s
        if self.variance == "learned":
            assert share is not None
            log_posterior, log_forward = math.log(max(posterior, 1e-20)), math.log(max(forward, 1e-20))
            return x_s + self.eta * (0.5 * (log_posterior + share * (log_forward - log_posterior))).exp() * noise()
        return x_s + self.eta * math.sqrt(posterior if self.variance == "posterior" else forward) * noise()

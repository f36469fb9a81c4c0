"""Consistency tuning (Geng et al. 2024, https://arxiv.org/abs/2406.14548): a trained model learns to give, anywhere on
a noise path, the answer that it gives a little further down the same path,

    loss = d(x̂_0(x_t, t), x̂_0(x_r, r)) / (ς_t − ς_r),    x_r = α_r x_0 + σ_r ε with the same x_0 and ε,

with ς = σ/α. The right-hand side is not differentiated. At ς = 0 the answer is the image itself (c_skip 1, c_out 0):
from there it spreads upwards, until one evaluation leads from noise to the end of its path. The gap between t and r is

    ς_t − ς_r = ς_t · min(1, 2^(−1 − doublings · progress) · (1 + 8 / (1 + e^ς_t))),

at first all of ς_t up to ς_t = 1.9 and half of it at high noise: there the goal is the image itself, as in the training
before, or not far from it. It shrinks as the run goes on.
"""

import math

import torch
from torch import Tensor

from diffusion.denoiser import Denoiser, beyond, per_image
from diffusion.loss.weights import Weighted
from diffusion.objective import clamp_log_snr


class Consistency(Weighted):
    """The consistency loss, with d the pseudo-Huber distance √(|a − b|² + c²) − c.

    Args:
        doublings: how often the gap is halved over the run.
        huber: c, as a share of √(number of pixel values).
        margin: how far beyond [−1, 1] pixels at its ends are learned, from 0 to 1.
    """

    def __init__(self, doublings: float = 6.0, huber: float = 0.002, margin: float = 0.0) -> None:
        super().__init__(margin)
        if doublings < 0:
            raise ValueError(f"doublings={doublings} must be 0 or more")
        if huber <= 0:
            raise ValueError(f"huber={huber} must be positive")
        self.doublings, self.huber = doublings, huber

    def check(self, denoiser: Denoiser) -> None:
        one, zero = torch.ones(1), torch.zeros(1)
        c_skip, c_out, _ = denoiser.objective.coefficients(one, zero)
        wrong = None
        if abs(float(c_skip) - 1) > 1e-3 or abs(float(c_out)) > 1e-3:
            wrong = "whose answer without noise is not the image itself"
        elif denoiser.objective.needs_signal:
            wrong = "whose answer to nearly pure noise is the network's error many times over"
        if wrong is not None:
            raise ValueError(
                f"loss=consistency cannot be used with objective={denoiser.objective.name}, {wrong}: choose "
                "objective=v, flow or edm"
            )

    def earlier(self, denoiser: Denoiser, t: Tensor, progress: float) -> tuple[Tensor, Tensor, Tensor]:
        """The time r below t, with ς_t and ς_r; all (B,)."""
        alpha, sigma = clamp_log_snr(*denoiser.schedule(t))
        ratio = sigma / alpha
        gap = 0.5 * 2 ** (-self.doublings * progress)
        lower = ratio * (1 - gap * (1 + 8 * torch.sigmoid(-ratio))).clamp(min=0)
        return denoiser.schedule.time_at(-2 * lower.log()) * (lower > 0), ratio, lower

    def __call__(
        self,
        denoiser: Denoiser,
        x_0: Tensor,
        t: Tensor,
        noise: Tensor,
        labels: Tensor | None = None,
        progress: float = 0.0,
    ) -> Tensor:
        x_0 = beyond(x_0, self.margin)
        r, ratio, lower = self.earlier(denoiser, t, progress)

        def answer(time: Tensor) -> Tensor:
            alpha, sigma = (per_image(value, x_0) for value in denoiser.schedule(time))
            return denoiser(alpha * x_0 + sigma * noise, time, labels)

        with torch.no_grad():
            goal = torch.where(per_image(lower > 0, x_0), answer(r), x_0)
        c = self.huber * math.sqrt(x_0[0].numel())
        distance = ((answer(t) - goal).square().flatten(1).sum(dim=1) + c**2).sqrt() - c
        return distance / (ratio - lower)

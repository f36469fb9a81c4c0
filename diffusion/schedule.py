"""Noise schedules: how much of the image and how much noise is left at time t.

    x_t = α(t) · x_0 + σ(t) · ε,    ε ~ N(0, I),  t ∈ [0, 1]

A schedule is a callable `t → (α, σ)` whose signal-to-noise ratio α²/σ² falls with t. Those of this file are the
discrete variance-preserving ones of DDPM (Ho et al. 2020, https://arxiv.org/abs/2006.11239): T steps with variances
β_1 … β_T and ᾱ_i = Π (1 − β_j), read at t = i/T, where they are exact; between two steps log ᾱ is interpolated, so
t may be any real number. α = √ᾱ and σ = √(1 − ᾱ).
"""

import math

import torch
from torch import Tensor


class Schedule:
    """A variance-preserving schedule given by the variances β of T steps; a subclass writes only `betas`.

    Args:
        steps: T, the number of steps; at t = (i + 1)/T the schedule equals step i of the discrete process.
    """

    def __init__(self, steps: int = 1000) -> None:
        if steps < 2:
            raise ValueError(f"steps={steps}: a schedule needs at least 2 steps")
        self.steps = steps
        beta = self.betas()
        if not bool(((beta > 0) & (beta < 1)).all()):
            raise ValueError(f"steps={steps} is too few for this schedule: a step would have variance ≥ 1; use more")
        zero = torch.zeros(1, dtype=torch.float64)
        self._log_alpha_bar = torch.cat([zero, torch.log1p(-beta).cumsum(0)])  # (T + 1,), entry i is log ᾱ at i/T
        self._on_device: dict[torch.device, Tensor] = {}

    def betas(self) -> Tensor:
        """β_1 … β_T as float64 (T,), each in (0, 1)."""
        raise NotImplementedError

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """α and σ at times t in [0, 1]; both have the shape, type and device of t."""
        if t.device not in self._on_device:
            exact = torch.float32 if t.device.type == "mps" else torch.float64
            self._on_device[t.device] = self._log_alpha_bar.to(t.device, exact)
        table = self._on_device[t.device]
        position = t.to(table.dtype) * self.steps
        nearest = position.round()
        # A float32 time such as 0.999 misses its step by up to 1e-4: read exactly the step that is meant.
        position = torch.where((position - nearest).abs() < 1e-3, nearest, position)
        below = position.floor().clamp(0, self.steps - 1).long()
        log_alpha_bar = torch.lerp(table[below], table[below + 1], position - below)
        alpha = torch.exp(0.5 * log_alpha_bar)
        sigma = torch.sqrt(-torch.expm1(log_alpha_bar))
        return alpha.to(t.dtype), sigma.to(t.dtype)


class Linear(Schedule):
    """β grows linearly from 1e-4 to 0.02 at T = 1000 (Ho et al. 2020); both are scaled by 1000/T for other T."""

    def betas(self) -> Tensor:
        start, end = self.ends()
        return torch.linspace(start, end, self.steps, dtype=torch.float64)

    def ends(self) -> tuple[float, float]:
        """β_1 and β_T."""
        return 0.1 / self.steps, 20.0 / self.steps


class Quadratic(Linear):
    """√β grows linearly between the ends of the linear schedule."""

    def betas(self) -> Tensor:
        start, end = self.ends()
        return torch.linspace(math.sqrt(start), math.sqrt(end), self.steps, dtype=torch.float64) ** 2


class Sigmoid(Linear):
    """β follows the logistic function of u from −6 to 6 between the ends of the linear schedule."""

    def betas(self) -> Tensor:
        start, end = self.ends()
        u = torch.linspace(-6, 6, self.steps, dtype=torch.float64)
        return start + (end - start) * torch.sigmoid(u)


class Cosine(Schedule):
    """ᾱ(t) ∝ cos²((t + s)/(1 + s) · π/2) with s = 0.008 and β ≤ 0.999 (Nichol & Dhariwal 2021, eq. 17,
    https://arxiv.org/abs/2102.09672)."""

    def betas(self) -> Tensor:
        t = torch.linspace(0, 1, self.steps + 1, dtype=torch.float64)
        alpha_bar = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
        return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)

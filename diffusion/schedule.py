"""Noise schedules: how much of the image and how much noise is left at time t.

    x_t = α(t) · x_0 + σ(t) · ε,    ε ~ N(0, I),  t ∈ [0, 1]

A schedule is a callable `t → (α, σ)` whose signal-to-noise ratio α²/σ² falls with t. Two are continuous: `Flow`, a
straight line from image to noise, and `EDM`, which leaves the image as it is and adds more and more noise.

The others are the discrete variance-preserving ones of DDPM (Ho et al. 2020, https://arxiv.org/abs/2006.11239): T steps
with variances β_1 … β_T and ᾱ_i = Π (1 − β_j), read at t = i/T, where they are exact; between two steps log ᾱ is
interpolated, so t may be any real number. α = √ᾱ and σ = √(1 − ᾱ).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Schedule:
    """t → (α, σ), and back."""

    steps = 1000  # T of the discrete process; continuous schedules are read at 1000 times where one is needed

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """α and σ at times t in [0, 1]; both have the shape, type and device of t."""
        raise NotImplementedError

    def time_at(self, log_snr: Tensor) -> Tensor:
        """The time t in [0, 1] at which log(α²/σ²) has the given values, the nearest one where none has."""
        raise NotImplementedError

    @property
    def described(self) -> str:
        """The schedule as the config names it, for messages."""
        return f"schedule={type(self).__name__.lower()}"


class Level(NamedTuple):
    """A time with its α and σ, as plain numbers: no step waits for the device."""

    t: float
    alpha: float
    sigma: float

    @property
    def ratio(self) -> float:
        """σ/α, infinite where nothing of the image is left."""
        return self.sigma / self.alpha if self.alpha else math.inf

    @property
    def half_log_snr(self) -> float:
        """λ = log(α/σ), with −20 for pure noise, where it is infinite."""
        return math.log(self.alpha / self.sigma) if self.alpha else -20.0


def levels_at(schedule: Schedule, times: Sequence[float]) -> list[Level]:
    """The levels of some times."""
    t = torch.tensor(times, dtype=torch.float64)
    return [Level(*row) for row in torch.stack([t, *schedule(t)], dim=1).tolist()]


class Flow(Schedule):
    """α = 1 − t and σ = t: a straight line (Lipman et al. 2022, https://arxiv.org/abs/2210.02747; Liu et al. 2022)."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t, t

    def time_at(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr / 2)


class EDM(Schedule):
    """α = 1 and σ = σ_max · t^ρ: the image stays, noise is added (Karras et al. 2022, https://arxiv.org/abs/2206.00364).

    In even steps of t this is the time grid of EDM's eq. 5, with σ_min = 0.

    Args:
        sigma_max: noise at t = 1, for images in [−1, 1].
        rho: ρ; larger means more of the times at small noise.
    """

    def __init__(self, sigma_max: float = 80.0, rho: float = 7.0) -> None:
        if sigma_max < 10:
            raise ValueError(
                f"sigma_max={sigma_max} must be at least 10, so that nothing of the image is left at t = 1"
            )
        if rho < 1:
            raise ValueError(f"rho={rho} must be at least 1")
        self.sigma_max, self.rho = sigma_max, rho

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), self.sigma_max * t**self.rho

    def time_at(self, log_snr: Tensor) -> Tensor:
        return (torch.exp(-log_snr / 2) / self.sigma_max).pow(1 / self.rho).clamp(max=1)


class DiscreteSchedule(Schedule):
    """A variance-preserving schedule given by the variances β of T steps; a subclass writes only `betas`.

    Args:
        steps: T, the number of steps; at t = (i + 1)/T the schedule equals step i of the discrete process.
        zero_terminal_snr: shift and scale √ᾱ so that nothing of the image is left at t = 1 (Lin et al. 2023,
            https://arxiv.org/abs/2305.08891, algorithm 1); its first step stays as it is.
    """

    def __init__(self, steps: int = 1000, zero_terminal_snr: bool = False) -> None:
        if not 2 <= steps <= 1_000_000:
            raise ValueError(f"steps={steps}: a schedule needs at least 2 steps, and at most a million")
        self.steps, self.zero_terminal_snr = steps, zero_terminal_snr
        beta = self.betas()
        if not bool(((beta > 0) & (beta < 1)).all()):
            raise ValueError(f"steps={steps} is too few for this schedule: a step would have variance ≥ 1; use more")
        log_alpha_bar = torch.log1p(-beta).cumsum(0)
        if zero_terminal_snr:
            alpha = torch.exp(0.5 * log_alpha_bar)
            alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
            log_alpha_bar = 2 * torch.log(alpha)  # −∞ at the end
        # (T + 1,), entry i is log ᾱ at i/T
        self._log_alpha_bar = torch.cat([torch.zeros(1, dtype=torch.float64), log_alpha_bar])
        self._on_device: dict[torch.device, Tensor] = {}

    def betas(self) -> Tensor:
        """β_1 … β_T as float64 (T,), each in (0, 1), before any rescaling."""
        raise NotImplementedError

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        table = self._table(t.device)
        position = t.to(table.dtype) * self.steps
        nearest = position.round()
        # A float32 time such as 0.999 misses its step by up to 1e-4: read exactly the step that is meant.
        position = torch.where((position - nearest).abs() < 1e-3, nearest, position)
        below = position.floor().clamp(0, self.steps - 1).long()
        between = position - below
        log_alpha_bar = torch.lerp(table[below], table[below + 1], between)
        if self.zero_terminal_snr:  # α itself falls to 0 over the last step
            last = table[-2] + 2 * torch.log1p(-between)
            log_alpha_bar = torch.where(below == self.steps - 1, last, log_alpha_bar)
        alpha = torch.exp(0.5 * log_alpha_bar)
        sigma = torch.sqrt(-torch.expm1(log_alpha_bar))
        return alpha.to(t.dtype), sigma.to(t.dtype)

    def time_at(self, log_snr: Tensor) -> Tensor:
        table = self._table(log_snr.device)
        log_alpha_bar = F.logsigmoid(log_snr.to(table.dtype)).clamp(min=table[-1])
        below = (torch.searchsorted(-table, -log_alpha_bar) - 1).clamp(0, self.steps - 1)
        between = (table[below] - log_alpha_bar) / (table[below] - table[below + 1])
        if self.zero_terminal_snr:
            last = -torch.expm1(0.5 * (log_alpha_bar - table[-2]))
            between = torch.where(below == self.steps - 1, last, between)
        return ((below + between) / self.steps).to(log_snr.dtype)

    @property
    def described(self) -> str:
        return "schedule.zero_terminal_snr=true" if self.zero_terminal_snr else super().described

    def _table(self, device: torch.device) -> Tensor:
        if device not in self._on_device:
            exact = torch.float32 if device.type == "mps" else torch.float64
            self._on_device[device] = self._log_alpha_bar.to(device, exact)
        return self._on_device[device]


class Linear(DiscreteSchedule):
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


class Cosine(DiscreteSchedule):
    """ᾱ(t) ∝ cos²((t + s)/(1 + s) · π/2) with s = 0.008 and β ≤ 0.999 (Nichol & Dhariwal 2021, eq. 17,
    https://arxiv.org/abs/2102.09672)."""

    def betas(self) -> Tensor:
        t = torch.linspace(0, 1, self.steps + 1, dtype=torch.float64)
        alpha_bar = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
        return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)

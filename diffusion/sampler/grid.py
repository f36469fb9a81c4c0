"""Where the times of a sampler lie, from the noisiest, t_0, to t_steps = 0.

Two grids are even in the time t; two in the noise level σ/α, which means the same for every schedule. These begin at
σ/α = 80, or with the schedule if it ends before, and take their last step from 0.002, or from the first of the
schedule's T steps if that is noisier, because below it nothing is trained.
"""

import math
from collections.abc import Callable

import torch

from diffusion.schedule import Schedule

LOWEST, HIGHEST, RHO = 0.002, 80.0, 7.0


def uniform(schedule: Schedule, steps: int) -> list[float]:
    """Even in t, from 1."""
    return [1 - k / steps for k in range(steps)] + [0.0]


def quadratic(schedule: Schedule, steps: int) -> list[float]:
    """Even in √t, from 1: more steps at low noise (Song et al. 2021, https://arxiv.org/abs/2010.02502, D.2)."""
    return [(1 - k / steps) ** 2 for k in range(steps)] + [0.0]


def karras(schedule: Schedule, steps: int) -> list[float]:
    """Even in (σ/α)^(1/7) (Karras et al. 2022, https://arxiv.org/abs/2206.00364, eq. 5)."""
    return _between(schedule, steps, lambda ratio: ratio ** (1 / RHO), lambda value: value**RHO)


def log_snr(schedule: Schedule, steps: int) -> list[float]:
    """Even in log SNR (Lu et al. 2022, https://arxiv.org/abs/2206.00927)."""
    return _between(schedule, steps, math.log, math.exp)


def _between(
    schedule: Schedule, steps: int, there: Callable[[float], float], back: Callable[[float], float]
) -> list[float]:
    """Even in there(σ/α)."""
    alpha, sigma = schedule(torch.tensor([1 / schedule.steps, 1.0], dtype=torch.float64))
    first, last = (sigma / alpha).tolist()
    low, high = there(max(LOWEST, first)), there(min(HIGHEST, last))
    ratios = [back(high + (low - high) * k / max(steps - 1, 1)) for k in range(steps)]
    times = schedule.time_at(-2 * torch.tensor(ratios, dtype=torch.float64).log())
    return [*times.tolist(), 0.0]


GRIDS = {grid.__name__: grid for grid in (uniform, quadratic, karras, log_snr)}

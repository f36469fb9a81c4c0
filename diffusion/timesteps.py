"""Which noise levels are trained: p(t) over t ∈ (0, 1], as a map from uniform random numbers.

The trainer draws u ~ U[0, 1) for every image from the step's own stream; the distribution only reshapes u, so a
change of p(t) leaves every other random number of a run as it was.
"""

import torch
from torch import Tensor

from diffusion.schedule import Schedule


class Timesteps:
    """A distribution of training times; a subclass writes `__call__`. The other methods are for those that learn."""

    def __call__(self, u: Tensor) -> Tensor:
        """u (B,) uniform in [0, 1) → t (B,) in (0, 1]."""
        raise NotImplementedError

    def weight(self, t: Tensor) -> Tensor | float:
        """What the losses at times t (B,) are multiplied with; 1 where p(t) is meant to weigh the noise levels."""
        return 1.0

    def observe(self, t: Tensor, losses: Tensor) -> None:
        """Learn from the losses (B,) of a step at times t (B,)."""

    def state_dict(self) -> dict[str, Tensor]:
        """What has been learned."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""


class Uniform(Timesteps):
    """Every t in (0, 1] with the same density."""

    def __call__(self, u: Tensor) -> Tensor:
        return 1 - u


class Stratified(Timesteps):
    """Uniform, one t in each of B equal parts of (0, 1], so that every batch sees all noise levels and the loss varies
    less from step to step (Kingma et al. 2021, https://arxiv.org/abs/2107.00630, appendix I.1, in spirit)."""

    def __call__(self, u: Tensor) -> Tensor:
        return (1 - (torch.arange(len(u), device=u.device) + u) / len(u)).clamp(min=1e-6)  # u can round up to 1 here


class Discrete(Timesteps):
    """The T steps of the discrete process, t = 1/T, 2/T, …, 1, each with the same probability (Ho et al. 2020).

    Args:
        steps: T; None is that of the schedule.
        schedule: the run's schedule.
    """

    def __init__(self, steps: int | None = None, schedule: Schedule | None = None) -> None:
        self.steps = steps if steps is not None else (schedule or Schedule()).steps
        if self.steps < 1:
            raise ValueError(f"steps={steps} must be at least 1")

    def __call__(self, u: Tensor) -> Tensor:
        # u·T can round up to T in float32, hence the clamp.
        return ((u * self.steps).floor().clamp(max=self.steps - 1) + 1) / self.steps


def normal_quantile(u: Tensor) -> Tensor:
    """u (B,) uniform in [0, 1) → standard normal (B,), within ±4.8."""
    u = u.clamp(1e-6, 1 - 1e-6)
    # The inverse of the normal distribution has no kernel for Apple GPUs.
    return torch.special.ndtri(u.cpu()).to(u.device) if u.device.type == "mps" else torch.special.ndtri(u)


class LogitNormal(Timesteps):
    """logit(t) ~ N(mean, std²): more of the middle noise levels (Esser et al. 2024, https://arxiv.org/abs/2403.03206).

    Args:
        mean: of logit(t); above 0 means noisier.
        std: of logit(t), positive.
    """

    def __init__(self, mean: float = 0.0, std: float = 1.0) -> None:
        if std <= 0:
            raise ValueError(f"std={std} must be positive")
        self.mean, self.std = mean, std

    def __call__(self, u: Tensor) -> Tensor:
        return torch.sigmoid(self.mean + self.std * normal_quantile(u))


class LogNormal(LogitNormal):
    """ln(σ/α) ~ N(mean, std²), whatever the schedule (EDM: Karras et al. 2022, https://arxiv.org/abs/2206.00364).

    Args:
        mean: of ln(σ/α).
        std: of ln(σ/α), positive.
        schedule: the run's schedule.
    """

    def __init__(self, schedule: Schedule, mean: float = -1.2, std: float = 1.2) -> None:
        super().__init__(mean, std)
        self.schedule = schedule

    def __call__(self, u: Tensor) -> Tensor:
        return self.schedule.time_at(-2 * (self.mean + self.std * normal_quantile(u))).clamp(min=1e-6)


class LossAware(Timesteps):
    """More of the noise levels whose losses are large, with weights that keep the expected loss as it was: importance
    sampling with p(t) ∝ √E[loss²] (Nichol & Dhariwal 2021, https://arxiv.org/abs/2102.09672, eq. 18).

    The times are divided into bins, and √E[loss²] is followed for each. Until every bin has been seen often enough the
    times are uniform.

    Args:
        bins: number of bins.
        memory: losses of a bin over which its average reaches.
        uniform: share of the times that stays uniform, so that no bin is forgotten.
    """

    def __init__(self, bins: int = 100, memory: int = 50, uniform: float = 0.01) -> None:
        if bins < 2 or memory < 1:
            raise ValueError(f"bins={bins} must be at least 2 and memory={memory} at least 1")
        if not 0 < uniform <= 1:
            raise ValueError(f"uniform={uniform} must lie in (0, 1]")
        self.bins, self.memory, self.uniform = bins, memory, uniform
        self.square, self.seen = torch.zeros(bins), torch.zeros(bins)  # mean of loss², number of losses, per bin

    def probabilities(self) -> Tensor:
        """Of the bins, (bins,)."""
        root = self.square.sqrt()
        p = (1 - self.uniform) * root / root.sum().clamp(min=1e-20) + self.uniform / self.bins
        return torch.where((self.seen >= 10).all(), p, torch.full_like(p, 1 / self.bins))

    def __call__(self, u: Tensor) -> Tensor:
        self.square, self.seen = self.square.to(u.device), self.seen.to(u.device)
        p = self.probabilities()
        ends = p.cumsum(0)
        bin = torch.searchsorted(ends, u * ends[-1], right=True).clamp(max=self.bins - 1)
        inside = ((u * ends[-1] - (ends - p)[bin]) / p[bin]).clamp(0, 1)
        return ((bin + inside) / self.bins).clamp(min=1e-6)

    def weight(self, t: Tensor) -> Tensor:
        return 1 / (self.bins * self.probabilities().to(t.device)[self._bin(t)])

    def observe(self, t: Tensor, losses: Tensor) -> None:
        bin, ones = self._bin(t), torch.ones_like(losses)
        count = torch.zeros_like(self.seen).index_add_(0, bin, ones)
        mean = torch.zeros_like(self.square).index_add_(0, bin, losses.square()) / count.clamp(min=1)
        self.seen = self.seen + count
        # The first `memory` losses weigh alike; later ones push the older ones out.
        share = (count / self.seen.clamp(min=1, max=self.memory)).clamp(max=1)
        self.square = torch.lerp(self.square, mean, share)

    def _bin(self, t: Tensor) -> Tensor:
        return ((t * self.bins).ceil().long() - 1).clamp(0, self.bins - 1)

    def state_dict(self) -> dict[str, Tensor]:
        return {"square": self.square, "seen": self.seen}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.square, self.seen = state["square"].clone(), state["seen"].clone()

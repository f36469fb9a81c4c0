"""Which noise levels are trained: p(t) over t ∈ (0, 1], as a map from uniform random numbers.

The trainer draws u ~ U[0, 1) for every image from the step's own stream; the distribution only reshapes u, so a
change of p(t) leaves every other random number of a run as it was.
"""

import torch
from torch import Tensor


class Uniform:
    """Every t in (0, 1] with the same density."""

    def __call__(self, u: Tensor) -> Tensor:
        """u (B,) uniform in [0, 1) → t (B,)."""
        return 1 - u


class Discrete:
    """The T steps of the discrete process, t = 1/T, 2/T, …, 1, each with the same probability (Ho et al. 2020).

    Args:
        steps: T, that of the schedule.
    """

    def __init__(self, steps: int) -> None:
        if steps < 1:
            raise ValueError(f"steps={steps} must be at least 1")
        self.steps = steps

    def __call__(self, u: Tensor) -> Tensor:
        # u·T can round up to T in float32, hence the clamp.
        return ((u * self.steps).floor().clamp(max=self.steps - 1) + 1) / self.steps


class LogitNormal:
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
        u = u.clamp(1e-6, 1 - 1e-6)
        # The inverse of the normal distribution has no kernel for Apple GPUs.
        normal = torch.special.ndtri(u.cpu()).to(u.device) if u.device.type == "mps" else torch.special.ndtri(u)
        return torch.sigmoid(self.mean + self.std * normal)

"""What the mathematics asks of a part of the user's own, tried on a few numbers when it is made.

schedule    σ/α grows with t from (nearly) 0, and `time_at` is its inverse
objective   c_skip · x_t + c_out · target = x_0, for any image and noise
timesteps   u in [0, 1) becomes t in (0, 1]
"""

import torch
from torch import Tensor

from diffusion.objective import Objective
from diffusion.schedule import Schedule
from diffusion.timesteps import Timesteps


def check(part: object) -> None:
    """Raise `ValueError`, with what is wrong, where a part breaks the rule of its kind; others are left alone."""
    if isinstance(part, Schedule):
        check_schedule(part)
    elif isinstance(part, Objective):
        check_objective(part)
    elif isinstance(part, Timesteps):
        check_timesteps(part)


def check_schedule(schedule: Schedule) -> None:
    """At times from 0 to 0.95, where no schedule is without any signal."""
    t = torch.linspace(0, 0.95, 20, dtype=torch.float64)
    alpha, sigma = schedule(t)
    for name, value in (("α", alpha), ("σ", sigma)):
        if value.shape != t.shape or not bool((value.isfinite() & (value >= 0)).all()):
            raise ValueError(f"its {name} must be a number of 0 or more at every time t (B,)")
    ratio = sigma / alpha
    wrong = (ratio.diff() <= 0).nonzero().flatten().tolist()
    if wrong or float(ratio[0]) > 0.05:
        k = wrong[0] if wrong else 0
        shown = f"{ratio[k]:.3g} at t = {t[k]:.2f} and {ratio[k + 1]:.3g} at t = {t[k + 1]:.2f}"
        raise ValueError(f"σ/α must grow with t, from nearly 0 at t = 0, and it is {shown}")
    back = schedule.time_at(2 * torch.log(alpha / sigma)[1:])
    far = float((back - t[1:]).abs().max()) if back.shape == t[1:].shape else float("nan")
    if not far < 0.02:
        raise ValueError(f"time_at must lead from log(α²/σ²) back to t, and is off by up to {far:.3g}")


def check_objective(objective: Objective) -> None:
    """For images and noise of a thousand values, at three levels of noise."""
    x_0, noise = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for angle in (0.3, 0.8, 1.3):
        alpha, sigma = (f(torch.full_like(x_0, angle)) for f in (torch.cos, torch.sin))
        c_skip, c_out, _ = objective.coefficients(alpha, sigma)
        found = c_skip * (alpha * x_0 + sigma * noise) + c_out * objective.target(x_0, noise, alpha, sigma)
        far = float((found - x_0).abs().max())
        if not far < 1e-2:
            raise ValueError(
                "its coefficients and its target do not belong together: c_skip · x_t + c_out · target must be x_0, "
                f"and is off by up to {far:.3g}"
            )


def check_timesteps(timesteps: Timesteps) -> None:
    """For a thousand even numbers."""
    u = torch.arange(1000) / 1000
    t: Tensor = timesteps(u)
    if t.shape != u.shape or not bool(((t > 0) & (t <= 1)).all()):
        raise ValueError("it must lead from u (B,) in [0, 1) to times (B,) in (0, 1]")

"""Learned variance (Nichol & Dhariwal 2021, https://arxiv.org/abs/2102.09672): the squared error teaches the mean, the
variational bound teaches how much noise each step should add,

    L = L_simple + weight · L_vlb,    log variance = (1 − v) · log β̃ + v · log β,

with v from a second head of the network. The bound does not reach back into the mean. Times with so little noise that
the process of the bound has no step there (`variational.LEAST_NOISE`) teach the mean alone.
"""

import torch
from torch import Tensor

from diffusion.denoiser import Denoiser
from diffusion.loss.weights import Target
from diffusion.variational import has_step, step_bits


class Hybrid(Target):
    """The squared error in the network's own target, plus the variational bound for the variance.

    Args:
        weight: of the bound, whose T terms are each estimated from the one that is drawn.
        steps: T, the steps of the process that is bounded; None is that of the schedule.
        margin: how far beyond [−1, 1] pixels at its ends are learned, from 0 to 1.
    """

    learns_variance = True

    def __init__(self, weight: float = 0.001, steps: int | None = None, margin: float = 0.0) -> None:
        super().__init__(margin)
        if weight <= 0:
            raise ValueError(f"weight={weight} must be positive")
        if steps is not None and steps < 2:
            raise ValueError(f"steps={steps} must be at least 2")
        self.bound_weight, self.steps = weight, steps

    def of_variance(
        self, denoiser: Denoiser, x_0: Tensor, x_t: Tensor, t: Tensor, estimate: Tensor, share: Tensor
    ) -> Tensor:
        steps = self.steps or denoiser.schedule.steps
        counted = has_step(denoiser.schedule, t)  # the others stand for the noisiest step, to be finite, and count 0
        upper = torch.where(counted, t, torch.ones_like(t))
        lower = (upper - 1 / steps).clamp(min=0)
        lower = lower * ((lower > 0.5 / steps) & has_step(denoiser.schedule, lower))  # else the last step, to the image
        bits = step_bits(denoiser.schedule, x_0, x_t, upper, lower, estimate, share)
        return self.bound_weight * steps * torch.where(counted, bits, torch.zeros_like(bits))

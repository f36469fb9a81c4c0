"""The model: a network, the noise schedule it was made for and what it predicts, as one function x_t → x̂_0."""

import torch
from torch import Tensor, nn

from diffusion.objective import Objective
from diffusion.schedule import Schedule


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """(B,) → (B, 1, 1, 1), so that one number per image multiplies its pixels."""
    return values.view(-1, *[1] * (like.ndim - 1))


class Denoiser(nn.Module):
    """x̂_0 = c_skip(t) · x_t + c_out(t) · network(c_in(t) · x_t, 1000 t, labels).

    Args:
        network: called with x (B, C, H, W), times in 0..1000 (B,) and labels (B,) or None; returns the shape of x.
            Its attribute `num_classes` is 0 for an unconditional network; label `num_classes` is the null class.
        schedule: t → (α, σ).
        objective: what the network predicts.
    """

    def __init__(self, network: nn.Module, schedule: Schedule, objective: Objective) -> None:
        super().__init__()
        end, _ = schedule(torch.ones(1, dtype=torch.float64))
        if objective.needs_signal and float(end) == 0:
            raise ValueError(
                f"objective={objective.name} cannot be used with schedule={type(schedule).__name__}, which leaves no "
                "signal at t = 1: choose objective=v"
            )
        self.network, self.schedule, self.objective = network, schedule, objective

    @property
    def num_classes(self) -> int:
        """Number of classes the network knows; 0 means that it takes no labels."""
        return int(self.network.num_classes)  # type: ignore[arg-type]

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The estimate x̂_0 (B, C, H, W) of the clean image.

        Args:
            x_t: noisy images (B, C, H, W).
            t: times in (0, 1], (B,).
            labels: classes (B,), `num_classes` for "none"; None means "none" for all.
        """
        c_skip, c_out, c_in = (per_image(c, x_t) for c in self.objective.coefficients(*self.schedule(t)))
        return c_skip * x_t + c_out * self._predict(c_in * x_t, t, labels)

    def loss(self, x_0: Tensor, t: Tensor, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """The mean squared error of the network in its own target, one number per image (B,).

        Args:
            x_0: clean images in [−1, 1], (B, C, H, W).
            t: times in (0, 1], (B,).
            noise: ε ~ N(0, I), the shape of x_0.
            labels: as in `forward`.
        """
        alpha, sigma = self.schedule(t)
        c_in = self.objective.coefficients(alpha, sigma)[2]
        alpha, sigma, c_in = (per_image(value, x_0) for value in (alpha, sigma, c_in))
        x_t = alpha * x_0 + sigma * noise
        prediction = self._predict(c_in * x_t, t, labels)
        return (prediction - self.objective.target(x_0, noise, alpha, sigma)).square().flatten(1).mean(dim=1)

    def _predict(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        if self.num_classes == 0:
            labels = None
        elif labels is None:
            labels = torch.full((len(x),), self.num_classes, device=x.device)
        return self.network(x, 1000 * t, labels).to(x.dtype)  # the network may run under bf16 autocast

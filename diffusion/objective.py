"""What the network predicts. Every usual target is a pair of coefficients,

    x̂_0 = c_skip · x_t + c_out · F(c_in · x_t, t),

so the rest of the code only ever sees x̂_0 and works with any objective. The formulas hold for every schedule.
"""

import torch
from torch import Tensor

MAX_LOG_SNR = 20.0


def clamp_log_snr(alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Keep log(α²/σ²) within ±20, so that dividing by α or σ stays finite; α² + σ² does not change."""
    norm = torch.sqrt(alpha**2 + sigma**2)
    log_snr = (2 * (torch.log(alpha) - torch.log(sigma))).clamp(-MAX_LOG_SNR, MAX_LOG_SNR)
    return norm * torch.sigmoid(log_snr).sqrt(), norm * torch.sigmoid(-log_snr).sqrt()


class Objective:
    """A prediction target. A subclass writes `coefficients` and `target`."""

    name = ""
    needs_signal = False  # True where the coefficients have no limit at α = 0

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """c_skip, c_out and c_in for α and σ, all of one shape."""
        raise NotImplementedError

    def target(self, x_0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The value of F that makes x̂_0 = x_0 when x_t = α x_0 + σ noise; the shape of x_0."""
        raise NotImplementedError


class Epsilon(Objective):
    """The noise ε itself (Ho et al. 2020, https://arxiv.org/abs/2006.11239): x̂_0 = (x_t − σ F)/α."""

    name = "epsilon"
    needs_signal = True

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        alpha, sigma = clamp_log_snr(alpha, sigma)
        return 1 / alpha, -sigma / alpha, torch.ones_like(alpha)

    def target(self, x_0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return noise


class X0(Objective):
    """The clean image: x̂_0 = F."""

    name = "x0"

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.zeros_like(alpha), torch.ones_like(alpha), torch.ones_like(alpha)

    def target(self, x_0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return x_0


class V(Objective):
    """The velocity v = α ε − σ x_0 (Salimans & Ho 2022, https://arxiv.org/abs/2202.00512)."""

    name = "v"

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        square = alpha**2 + sigma**2
        return alpha / square, -sigma / square, torch.ones_like(alpha)

    def target(self, x_0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha * noise - sigma * x_0

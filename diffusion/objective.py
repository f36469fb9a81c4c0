"""What the network predicts. Every usual target is a pair of coefficients,

    x̂_0 = c_skip · x_t + c_out · F(c_in · x_t, t),

so the rest of the code only ever sees x̂_0 and works with any objective. The formulas hold for every schedule. But for
EDM's own, c_in is 1/√(α² + σ²), which keeps unit data and noise of unit size: 1 for the variance-preserving schedules.
"""

import torch
from torch import Tensor

MAX_LOG_SNR = 20.0


def clamp_log_snr(alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Keep log(α²/σ²) within ±20, so that dividing by α or σ stays finite; α² + σ² does not change."""
    norm = torch.sqrt(alpha**2 + sigma**2)
    log_snr = (2 * (torch.log(alpha) - torch.log(sigma))).clamp(-MAX_LOG_SNR, MAX_LOG_SNR)
    return norm * torch.sigmoid(log_snr).sqrt(), norm * torch.sigmoid(-log_snr).sqrt()


def unit(alpha: Tensor, sigma: Tensor) -> Tensor:
    """1/√(α² + σ²)."""
    return torch.rsqrt(alpha**2 + sigma**2)


class Objective:
    """A prediction target. A subclass writes `coefficients` and `target`."""

    name = ""  # of its option; that of the class unless a subclass has another
    needs_signal = False  # True where the coefficients have no limit at α = 0

    def __init_subclass__(cls) -> None:
        cls.name = vars(cls).get("name", cls.__name__.lower())

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
        return 1 / alpha, -sigma / alpha, unit(alpha, sigma)

    def target(self, x_0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return noise


class X0(Objective):
    """The clean image: x̂_0 = F."""

    name = "x0"

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.zeros_like(alpha), torch.ones_like(alpha), unit(alpha, sigma)

    def target(self, x_0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return x_0


class V(Objective):
    """The velocity v = α ε − σ x_0 (Salimans & Ho 2022, https://arxiv.org/abs/2202.00512), over √(α² + σ²)."""

    name = "v"

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        c_in = unit(alpha, sigma)
        return alpha * c_in**2, -sigma * c_in, c_in

    def target(self, x_0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (alpha * noise - sigma * x_0) * unit(alpha, sigma)


class Flow(Objective):
    """The direction from image to noise, u = ε − x_0 (rectified flow: Liu et al. 2022, https://arxiv.org/abs/2209.03003;
    flow matching: Lipman et al. 2022, https://arxiv.org/abs/2210.02747)."""

    name = "flow"

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        total = alpha + sigma
        return 1 / total, -sigma / total, unit(alpha, sigma)

    def target(self, x_0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return noise - x_0


class EDM(Objective):
    """EDM's preconditioning (Karras et al. 2022, https://arxiv.org/abs/2206.00364, table 1, for any α): with
    D = α²σ_d² + σ², the network's input x_t/√D and its target have variance 1, and c_out is as small as it can be. What
    the paper calls c_noise is 1000 t here, as for every objective.

    Args:
        sigma_data: σ_d, the root mean square of the data's pixel values.
    """

    name = "edm"

    def __init__(self, sigma_data: float) -> None:
        if sigma_data <= 0:
            raise ValueError(f"sigma_data={sigma_data} must be positive")
        self.sigma_data = sigma_data

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        square = (alpha * self.sigma_data) ** 2 + sigma**2
        root = square.sqrt()
        return alpha * self.sigma_data**2 / square, sigma * self.sigma_data / root, 1 / root

    def target(self, x_0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        root = ((alpha * self.sigma_data) ** 2 + sigma**2).sqrt()
        return (sigma / self.sigma_data * x_0 - alpha * self.sigma_data * noise) / root

"""The squared error of the network, weighted by the noise level.

The usual weights are functions of SNR = α²/σ², and are written here for the squared error of x̂_0:

    loss = w(SNR) · |x̂_0 − x_0|² = w(SNR) · c_out² · |F − target|²

so that the same x̂_0 has the same loss whatever the network predicts. The default is the other way round: 1 for the
network's own target, whatever that means for x̂_0.

With a margin, pixels at either end of the range are learned a little beyond it, at ±(1 + margin). Black stays black
there: an estimate off by a little less than the margin is still rounded to 0 when the image is made, where at −1 itself
half of all small errors are seen as 1, 2 or 3 of 255.
"""

import torch
from torch import Tensor

from diffusion.denoiser import Denoiser, beyond, per_image
from diffusion.objective import clamp_log_snr


class Weighted:
    """The weighted squared error. A subclass writes `of_snr`.

    Args:
        margin: how far beyond [−1, 1] pixels at its ends are learned, from 0 to 1.
    """

    learns_variance = False  # True where the network needs a second head
    margin = 0.0  # where the constructor of a subclass does not call this one

    def __init__(self, margin: float = 0.0) -> None:
        if not 0 <= margin <= 1:
            raise ValueError(f"margin={margin} must lie between 0 and 1")
        self.margin = margin

    def check(self, denoiser: Denoiser) -> None:
        """Raise `ValueError` for a denoiser that this loss cannot train."""

    def of_snr(self, snr: Tensor) -> Tensor:
        """The weight w of the squared error of x̂_0, the shape of `snr`."""
        raise NotImplementedError

    def weight(self, alpha: Tensor, sigma: Tensor, c_out: Tensor) -> Tensor:
        """The weight of the squared error of F, (B,)."""
        alpha, sigma = clamp_log_snr(alpha, sigma)
        return self.of_snr((alpha / sigma) ** 2) * c_out**2

    def __call__(
        self,
        denoiser: Denoiser,
        x_0: Tensor,
        t: Tensor,
        noise: Tensor,
        labels: Tensor | None = None,
        progress: float = 0.0,
    ) -> Tensor:
        """The loss of each image, (B,): the mean over its pixels.

        Args:
            denoiser: the model.
            x_0: clean images in [−1, 1], (B, C, H, W).
            t: times in (0, 1], (B,).
            noise: ε ~ N(0, I), the shape of x_0.
            labels: as in `Denoiser.forward`.
            progress: share of the run that is done, in [0, 1].
        """
        if self.margin:
            x_0 = beyond(x_0, self.margin)
        alpha, sigma = denoiser.schedule(t)
        c_skip, c_out, c_in = denoiser.objective.coefficients(alpha, sigma)
        weight = self.weight(alpha, sigma, c_out)
        alpha, sigma, c_skip, c_out, c_in = (per_image(value, x_0) for value in (alpha, sigma, c_skip, c_out, c_in))
        x_t = alpha * x_0 + sigma * noise
        prediction, share = denoiser.predict(c_in * x_t, t, labels)
        error = prediction - denoiser.objective.target(x_0, noise, alpha, sigma)
        loss = weight * error.square().flatten(1).mean(dim=1)
        if share is None:
            return loss
        return loss + self.of_variance(denoiser, x_0, x_t, t, (c_skip * x_t + c_out * prediction).detach(), share)

    def of_variance(
        self, denoiser: Denoiser, x_0: Tensor, x_t: Tensor, t: Tensor, estimate: Tensor, share: Tensor
    ) -> Tensor:
        """What teaches the variance, (B,): x̂_0 is the `estimate`, and the `share` comes from the second head."""
        raise NotImplementedError


class Target(Weighted):
    """The same weight for every noise level, in the network's own target (Ho et al. 2020: "simple")."""

    def weight(self, alpha: Tensor, sigma: Tensor, c_out: Tensor) -> Tensor:
        return torch.ones_like(c_out)


class Epsilon(Weighted):
    """The same weight for every noise level, in ε: what DDPM minimises, for any objective."""

    def of_snr(self, snr: Tensor) -> Tensor:
        return snr


class MinSNR(Weighted):
    """min(SNR, γ) (Hang et al. 2023, https://arxiv.org/abs/2303.09556): as for ε, but low noise counts no more than γ.

    Args:
        gamma: γ, positive.
        margin: how far beyond [−1, 1] pixels at its ends are learned, from 0 to 1.
    """

    def __init__(self, gamma: float = 5.0, margin: float = 0.0) -> None:
        super().__init__(margin)
        if gamma <= 0:
            raise ValueError(f"gamma={gamma} must be positive")
        self.gamma = gamma

    def of_snr(self, snr: Tensor) -> Tensor:
        return snr.clamp(max=self.gamma)


class P2(Weighted):
    """SNR/(k + SNR)^γ (Choi et al. 2022, https://arxiv.org/abs/2204.00227, eq. 8): less of the imperceptible details.

    Args:
        gamma: γ, at least 0; 0 is the weight of ε.
        k: keeps the weight finite where there is almost only noise; positive.
        margin: how far beyond [−1, 1] pixels at its ends are learned, from 0 to 1.
    """

    def __init__(self, gamma: float = 1.0, k: float = 1.0, margin: float = 0.0) -> None:
        super().__init__(margin)
        if gamma < 0:
            raise ValueError(f"gamma={gamma} must be 0 or more")
        if k <= 0:
            raise ValueError(f"k={k} must be positive")
        self.gamma, self.k = gamma, k

    def of_snr(self, snr: Tensor) -> Tensor:
        return snr / (self.k + snr) ** self.gamma


class EDM(Weighted):
    """SNR + 1/σ_d² (Karras et al. 2022, https://arxiv.org/abs/2206.00364, table 1): 1 for the target of objective=edm.

    Args:
        sigma_data: σ_d, the root mean square of the data's pixel values.
        margin: how far beyond [−1, 1] pixels at its ends are learned, from 0 to 1.
    """

    def __init__(self, sigma_data: float, margin: float = 0.0) -> None:
        super().__init__(margin)
        if sigma_data <= 0:
            raise ValueError(f"sigma_data={sigma_data} must be positive")
        self.sigma_data = sigma_data

    def of_snr(self, snr: Tensor) -> Tensor:
        return snr + 1 / self.sigma_data**2

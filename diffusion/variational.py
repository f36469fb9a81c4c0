"""The variational bound on −log p(x_0) (Ho et al. 2020, eq. 5; Nichol & Dhariwal 2021, https://arxiv.org/abs/2102.09672).

On any grid 1 = t_n > … > t_1 > t_0 = 0 the bound is a sum over the steps from t to s,

    KL(q(x_1 | x_0) ‖ N(0, σ_1²)) + Σ KL(q(x_s | x_t, x_0) ‖ p(x_s | x_t)) − log p(x_0 | x_{t_1}),

where p(x_s | x_t) is Gaussian: its mean is that of q with x̂_0 in the place of x_0, and its variance lies between those
of the posterior, β̃, and of the forward step, β. The last term is the mass that the Gaussian puts on the bin of width
2/255 around each of the 256 grey levels, the outermost of them open-ended: so no noise need be added to the pixels
(no dequantisation), and the bound holds for the discrete images themselves.
"""

import math

import torch
from torch import Tensor

from diffusion.denoiser import per_image
from diffusion.schedule import Schedule

# σ/α at which a process may begin, where grey levels lie 0.008 apart. With less noise than that the steps would spend
# bits (about one, at 0.001) on telling apart what rounds to one grey level; DDPM's linear and cosine β begin above it.
LEAST_NOISE = 0.005


def has_step(schedule: Schedule, t: Tensor) -> Tensor:
    """Whether times t have enough noise for a step of the process to begin or end there, the shape of t."""
    alpha, sigma = schedule(t)
    return sigma >= LEAST_NOISE * alpha


def step_variances(schedule: Schedule, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """β and β̃ of the steps from t to s < t: the variances of q(x_t | x_s), of q(x_s | x_t, x_0); each (B,).

    β̃ is 0 at s = 0; there, that of the step before it, from 2t to t, is given in its place (as in Nichol & Dhariwal).
    """
    final = s == 0
    alpha_t, sigma_t = schedule(torch.where(final, (2 * t).clamp(max=1), t))
    alpha_s, sigma_s = schedule(torch.where(final, torch.where(t < 1, t, t / 2), s))
    clipped = (sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2) * (sigma_s / sigma_t) ** 2
    alpha_t, sigma_t = schedule(t)
    alpha_s, sigma_s = schedule(s)
    forward = sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2
    return forward.clamp(min=1e-20), torch.minimum(clipped, forward).clamp(min=1e-20)


def step_mean(schedule: Schedule, x_0: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """The mean of q(x_s | x_t, x_0), the shape of x_0; times (B,)."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
    ratio = alpha_t / alpha_s * (sigma_s / sigma_t) ** 2  # of x_t; the rest of x_s comes from x_0
    return per_image(alpha_s - alpha_t * ratio, x_0) * x_0 + per_image(ratio, x_0) * x_t


def discretised_log_likelihood(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log of the mass that N(mean, std²) puts on the bin of each grey level x in {−1, −1 + 2/255, …, 1}; any shape."""
    inverse = torch.exp(-log_std)
    upper, lower = (x - mean + 1 / 255) * inverse, (x - mean - 1 / 255) * inverse
    # Above the mean both are near 1 and their difference is lost: mirror to the other side.
    flip = lower > 0
    upper, lower = torch.where(flip, -lower, upper), torch.where(flip, -upper, lower)
    open_end = (x > 0.999) | (x < -0.999)
    outer = torch.where(x > 0, (x - mean - 1 / 255) * -inverse, (x - mean + 1 / 255) * inverse)
    log_upper, log_lower = torch.special.log_ndtr(upper), torch.special.log_ndtr(lower)
    inner = log_upper + torch.log(-torch.expm1((log_lower - log_upper).clamp(max=-1e-7)))
    return torch.where(open_end, torch.special.log_ndtr(outer), inner)


def step_bits(
    schedule: Schedule, x_0: Tensor, x_t: Tensor, t: Tensor, s: Tensor, estimate: Tensor, share: Tensor | float
) -> Tensor:
    """The term of the bound for the step from t to s, in bits per dimension, (B,).

    Args:
        x_0: clean images (B, C, H, W); with a margin, black and white lie beyond −1 and 1.
        x_t: drawn from q(x_t | x_0), the same shape.
        t, s: times (B,); s = 0 for the last term.
        estimate: x̂_0.
        share: log variance of p is (1 − share) · log β̃ + share · log β; one number, or the shape of x_0.
    """
    forward, posterior = (per_image(value, x_0).log() for value in step_variances(schedule, t, s))
    log_variance = posterior + share * (forward - posterior)
    mean, true = step_mean(schedule, estimate, x_t, t, s), step_mean(schedule, x_0, x_t, t, s)
    kl = 0.5 * (
        log_variance - posterior + torch.exp(posterior - log_variance) - 1 + (true - mean) ** 2 / log_variance.exp()
    )
    decoded = -discretised_log_likelihood(x_0.clamp(-1, 1), mean, 0.5 * log_variance)
    return torch.where(per_image(s == 0, x_0), decoded, kl).flatten(1).mean(dim=1) / math.log(2)


def prior_bits(schedule: Schedule, x_0: Tensor) -> Tensor:
    """KL(q(x_1 | x_0) ‖ N(0, σ_1²)) in bits per dimension, (B,)."""
    alpha, sigma = (float(value) for value in schedule(torch.ones((), dtype=torch.float64)))
    return (0.5 * (alpha / sigma * x_0) ** 2).flatten(1).mean(dim=1) / math.log(2)

"""The variational bound against closed forms and DDPM's."""

import math

import pytest
import torch
from conftest import GaussianDenoiser

from diffusion import variational
from diffusion.schedule import Cosine, Linear


def images(generator, n=4):
    return torch.randn(3, n, 1, 4, 4, generator=generator, dtype=torch.float64)


def test_the_variances_of_a_step_are_those_of_ddpm():
    """β_i and β̃_i = β_i (1 − ᾱ_{i−1})/(1 − ᾱ_i), with β̃_2 in the place of β̃_1 = 0 (improved DDPM's clipping)."""
    schedule = Cosine(1000)
    beta = schedule.betas()
    alpha_bar = torch.cumprod(1 - beta, 0)
    posterior = beta[1:] * (1 - alpha_bar[:-1]) / (1 - alpha_bar[1:])
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    forward, found = variational.step_variances(schedule, t, (t - 1 / 1000).round(decimals=9))
    assert torch.allclose(forward, beta, rtol=1e-6)
    assert torch.allclose(found[1:], posterior, rtol=1e-6) and torch.isclose(found[0], posterior[0], rtol=1e-6)


def test_the_mean_of_a_step_is_that_of_ddpm(generator):
    """Ho et al. 2020, eq. 7, written with β and ᾱ."""
    schedule, i = Linear(1000), 400
    beta = schedule.betas()
    alpha_bar = torch.cumprod(1 - beta, 0)
    x_0, x_t, _ = images(generator, n=1)
    a = alpha_bar[i - 1].sqrt() * beta[i] / (1 - alpha_bar[i])
    b = (1 - beta[i]).sqrt() * (1 - alpha_bar[i - 1]) / (1 - alpha_bar[i])
    t = torch.tensor([(i + 1) / 1000], dtype=torch.float64)
    assert torch.allclose(variational.step_mean(schedule, x_0, x_t, t, t - 1 / 1000), a * x_0 + b * x_t, atol=1e-7)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_step_is_the_divergence_of_two_gaussians(share, generator):
    x_0, x_t, x_hat = images(generator, n=1)
    schedule, t, s = Cosine(), torch.tensor([0.5], dtype=torch.float64), torch.tensor([0.4], dtype=torch.float64)
    forward, posterior = variational.step_variances(schedule, t, s)
    p = torch.distributions.Normal(
        variational.step_mean(schedule, x_hat, x_t, t, s), (posterior ** (1 - share) * forward**share).sqrt()
    )
    q = torch.distributions.Normal(variational.step_mean(schedule, x_0, x_t, t, s), posterior.sqrt())
    expected = torch.distributions.kl_divergence(q, p).mean() / math.log(2)
    assert torch.isclose(variational.step_bits(schedule, x_0, x_t, t, s, x_hat, share)[0], expected, rtol=1e-6)


@pytest.mark.parametrize("std", [0.002, 0.05, 3.0])
@pytest.mark.parametrize("mean", [-1.2, 0.1, 0.99])
def test_the_masses_of_all_grey_levels_add_up_to_one(mean, std):
    x = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    log_mass = variational.discretised_log_likelihood(x, torch.full_like(x, mean), torch.full_like(x, math.log(std)))
    assert log_mass.isfinite().all() and float(log_mass.exp().sum()) == pytest.approx(1, abs=1e-6)
    normal = torch.distributions.Normal(mean, std)
    expected = normal.cdf(x + 1 / 255) - normal.cdf(x - 1 / 255)
    inside = (expected > 1e-6) & (x.abs() < 0.999)
    assert torch.allclose(log_mass.exp()[inside], expected[inside], rtol=1e-5)


def test_the_bound_is_a_bound_and_tight_for_gaussian_data(generator):
    """With the exact denoiser of Gaussian pixels, rounded to grey levels, −log p is known: the bound must lie above it,
    and with many steps only little, for the variance β, which is right where data is broad against the noise."""
    std, schedule = 0.3, Cosine()
    grey = (torch.randn(2000, 1, 1, 1, generator=generator, dtype=torch.float64) * std).clamp(-1, 1)
    x_0 = ((grey + 1) * 127.5).round() / 127.5 - 1
    exact = GaussianDenoiser(schedule, 0.0, std)
    normal = torch.distributions.Normal(0.0, std)
    true = -(normal.cdf(x_0 + 1 / 255) - normal.cdf(x_0 - 1 / 255)).log2().mean()
    bounds = []
    for steps in (20, 100, 400):
        total = variational.prior_bits(schedule, x_0)
        for k in range(steps, 0, -1):
            t, s = torch.full((2000,), k / steps).double(), torch.full((2000,), (k - 1) / steps).double()
            alpha, sigma = (float(v[0]) for v in schedule(t[:1]))
            x_t = alpha * x_0 + sigma * torch.randn(x_0.shape, generator=generator, dtype=torch.float64)
            total = total + variational.step_bits(schedule, x_0, x_t, t, s, exact(x_t, t), 1.0)
        bounds.append(float(total.mean()))
    assert bounds[0] > bounds[1] > bounds[2] > float(true) - 0.02  # 2000 pixels: the noise of the estimate
    assert bounds[2] < float(true) + 0.1

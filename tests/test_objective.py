"""Objectives: the target and the coefficients are inverse to each other, for every schedule and for any α, σ."""

import pytest
import torch

from diffusion.objective import X0, Epsilon, V, clamp_log_snr
from diffusion.schedule import Cosine, Linear

ALL = [Epsilon(), X0(), V()]


@pytest.mark.parametrize("objective", ALL)
@pytest.mark.parametrize("schedule", [Linear(), Cosine(), lambda t: (1 - t, t), lambda t: (torch.ones_like(t), 5 * t)])
def test_a_perfect_network_gives_back_the_image(objective, schedule, generator):
    t = torch.linspace(0.02, 0.98, 20, dtype=torch.float64)
    alpha, sigma = schedule(t)
    x_0 = torch.randn(20, generator=generator, dtype=torch.float64)
    noise = torch.randn(20, generator=generator, dtype=torch.float64)
    x_t = alpha * x_0 + sigma * noise
    c_skip, c_out, _ = objective.coefficients(alpha, sigma)
    assert torch.allclose(c_skip * x_t + c_out * objective.target(x_0, noise, alpha, sigma), x_0, atol=1e-9)


def test_targets_are_the_published_ones():
    alpha, sigma = torch.tensor(0.8), torch.tensor(0.6)
    x_0, noise = torch.tensor(2.0), torch.tensor(-1.0)
    assert Epsilon().target(x_0, noise, alpha, sigma) == -1
    assert X0().target(x_0, noise, alpha, sigma) == 2
    assert torch.isclose(V().target(x_0, noise, alpha, sigma), torch.tensor(0.8 * -1 - 0.6 * 2))


@pytest.mark.parametrize("objective", ALL)
def test_coefficients_are_finite_at_both_ends(objective):
    for alpha, sigma in ((0.0, 1.0), (1.0, 0.0)):
        values = objective.coefficients(torch.tensor(alpha), torch.tensor(sigma))
        assert all(value.isfinite() for value in values)


def test_the_clamp_keeps_the_norm_and_leaves_the_middle_alone():
    alpha, sigma = torch.tensor([0.0, 0.6, 1.0]), torch.tensor([1.0, 0.8, 0.0])
    clamped = clamp_log_snr(alpha, sigma)
    assert torch.allclose(clamped[0] ** 2 + clamped[1] ** 2, torch.ones(3))
    assert torch.allclose(clamped[0][1], alpha[1]) and torch.allclose(clamped[1][1], sigma[1])
    assert float(clamped[0][0]) > 0 and float(clamped[1][2]) > 0

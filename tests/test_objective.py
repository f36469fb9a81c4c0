"""Objectives: the target and the coefficients are inverse to each other, for every schedule and for any α, σ."""

import pytest
import torch

from diffusion.objective import EDM, X0, Epsilon, Flow, V, clamp_log_snr
from diffusion.schedule import EDM as EDMSchedule
from diffusion.schedule import Cosine, Linear
from diffusion.schedule import Flow as FlowSchedule

ALL = [Epsilon(), X0(), V(), Flow(), EDM(0.7)]


@pytest.mark.parametrize("objective", ALL)
@pytest.mark.parametrize("schedule", [Linear(), Cosine(), FlowSchedule(), EDMSchedule()])
def test_a_perfect_network_gives_back_the_image(objective, schedule, generator):
    t = torch.linspace(0.2, 0.98, 20, dtype=torch.float64)  # log SNR within ±20 for all
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
    assert Flow().target(x_0, noise, alpha, sigma) == -1 - 2


def test_edm_is_its_table_1():
    """c_skip, c_out, c_in of Karras et al. 2022 for α = 1; input and target then have unit variance."""
    sigma, sigma_data = torch.tensor([0.01, 0.5, 80.0], dtype=torch.float64), 0.5
    one = torch.ones_like(sigma)
    total = sigma**2 + sigma_data**2
    c_skip, c_out, c_in = EDM(sigma_data).coefficients(one, sigma)
    assert torch.allclose(c_skip, sigma_data**2 / total)
    assert torch.allclose(c_out, sigma * sigma_data / total.sqrt()) and torch.allclose(c_in, 1 / total.sqrt())


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), FlowSchedule(), EDMSchedule()])
def test_edm_sees_and_predicts_unit_variance(schedule, generator):
    sigma_data, t = 0.7, torch.tensor([0.05, 0.4, 0.9], dtype=torch.float64)
    x_0 = sigma_data * torch.randn(200_000, 1, generator=generator, dtype=torch.float64)
    noise = torch.randn(200_000, 1, generator=generator, dtype=torch.float64)
    alpha, sigma = schedule(t)
    c_in = EDM(sigma_data).coefficients(alpha, sigma)[2]
    for value in (c_in * (alpha * x_0 + sigma * noise), EDM(sigma_data).target(x_0, noise, alpha, sigma)):
        assert torch.allclose(value.var(dim=0), torch.ones(3, dtype=torch.float64), atol=0.02)


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

"""Noise schedules against closed forms and diffusers."""

import math

import pytest
import torch
from diffusers import DDPMScheduler

from diffusion.schedule import EDM, Cosine, Flow, Linear, Quadratic, Sigmoid

ALL = [Linear, Quadratic, Sigmoid, Cosine]


def alpha_bar(schedule, steps):
    t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    return schedule(t)[0] ** 2


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("steps", [50, 100, 1000, 4000])
def test_composing_the_steps_gives_the_schedule(kind, steps):
    schedule = kind(steps)
    variance, kept, expected = 0.0, 1.0, []
    for beta in schedule.betas().tolist():  # x ← √(1 − β) x + √β ε, one scalar at a time
        variance = (1 - beta) * variance + beta
        kept *= 1 - beta
        expected.append(kept)
    assert torch.allclose(alpha_bar(schedule, steps), torch.tensor(expected, dtype=torch.float64), rtol=1e-9)
    assert math.isclose(variance, 1 - expected[-1], rel_tol=1e-9)
    assert math.isclose(float(alpha_bar(schedule, steps)[0]), 1 - float(schedule.betas()[0]), rel_tol=1e-12)


@pytest.mark.parametrize("kind", ALL)
def test_noise_only_grows_and_the_variance_is_preserved(kind):
    t = torch.linspace(0, 1, 3001, dtype=torch.float64)
    alpha, sigma = kind(1000)(t)
    assert torch.allclose(alpha**2 + sigma**2, torch.ones_like(t), atol=1e-12)
    assert (alpha.diff() < 0).all() and (sigma.diff() > 0).all()
    assert float(alpha[0]) == 1 and float(sigma[0]) == 0


@pytest.mark.parametrize("steps", [50, 100, 1000])
def test_cosine_is_the_published_formula(steps):
    schedule = Cosine(steps)
    t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    f = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    values = alpha_bar(schedule, steps)
    assert float(schedule.betas().max()) <= 0.999
    assert torch.allclose(values[:-1], f[:-1], rtol=1e-9)
    assert float(values[-1]) < 1e-5


@pytest.mark.parametrize("steps", [50, 100, 500, 1000, 4000])
def test_linear_ends_in_noise_at_any_number_of_steps(steps):
    assert float(alpha_bar(Linear(steps), steps)[-1]) < 1e-4


def test_linear_ends_where_ddpm_says():
    betas = Linear(1000).betas()
    assert math.isclose(float(betas[0]), 1e-4, rel_tol=1e-12) and math.isclose(float(betas[-1]), 0.02, rel_tol=1e-12)


def test_quadratic_is_linear_in_the_root():
    root = Quadratic(1000).betas().sqrt()
    assert torch.allclose(root.diff(), root.diff()[0].expand(999), rtol=1e-9)


def test_sigmoid_is_symmetric_about_its_middle():
    betas = Sigmoid(1001).betas()
    assert torch.allclose(betas + betas.flip(0), torch.full_like(betas, 0.1 / 1001 + 20 / 1001), rtol=1e-12)


@pytest.mark.parametrize(("kind", "steps"), [(Linear, 20), (Linear, 2), (Quadratic, 20), (Sigmoid, 19)])
def test_too_few_steps_are_refused(kind, steps):
    with pytest.raises(ValueError, match="too few"):
        kind(steps)


@pytest.mark.parametrize("kind", ALL)
def test_float32_times_read_their_step_exactly(kind):
    for steps in (50, 1000):
        schedule = kind(steps)
        t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
        single, double = schedule(t.float()), schedule(t)
        assert torch.equal(single[0], double[0].float()) and torch.equal(single[1], double[1].float())


@pytest.mark.parametrize(("kind", "name"), [(Linear, "linear"), (Cosine, "squaredcos_cap_v2")])
@pytest.mark.parametrize("steps", [50, 1000])
def test_agrees_with_diffusers(kind, name, steps):
    scale = 1000 / steps
    oracle = DDPMScheduler(steps, beta_start=1e-4 * scale, beta_end=0.02 * scale, beta_schedule=name)
    assert torch.allclose(alpha_bar(kind(steps), steps).float(), oracle.alphas_cumprod, rtol=1e-4, atol=1e-7)


RESCALED = [lambda steps, kind=kind: kind(steps, zero_terminal_snr=True) for kind in ALL]


@pytest.mark.parametrize("schedule", [*(kind() for kind in ALL), *(make(1000) for make in RESCALED), Flow(), EDM()])
def test_the_noise_level_leads_back_to_the_time(schedule):
    t = torch.cat([torch.linspace(0.001, 0.999, 997), torch.tensor([0.00051, 0.99951])]).double()
    alpha, sigma = schedule(t)
    assert torch.allclose(schedule.time_at(2 * (alpha / sigma).log()), t, atol=1e-7)
    # Beyond both ends: the nearest time there is.
    assert float(schedule.time_at(torch.tensor(-400.0, dtype=torch.float64))) == pytest.approx(1, abs=1e-12)
    assert float(schedule.time_at(torch.tensor(400.0, dtype=torch.float64))) < 1e-4


@pytest.mark.parametrize("make", RESCALED)
@pytest.mark.parametrize("steps", [50, 1000])
def test_zero_terminal_snr(make, steps):
    schedule = make(steps)
    alpha, sigma = schedule(torch.linspace(0, 1, 3001, dtype=torch.float64))
    assert float(alpha[-1]) == 0 and float(sigma[-1]) == 1 and float(alpha[0]) == 1
    assert torch.allclose(alpha**2 + sigma**2, torch.ones_like(alpha), atol=1e-12)
    assert (alpha.diff() < 0).all() and alpha.isfinite().all()


@pytest.mark.parametrize(("kind", "name"), [(Linear, "linear"), (Cosine, "squaredcos_cap_v2")])
def test_zero_terminal_snr_agrees_with_diffusers(kind, name):
    from diffusers import DDIMScheduler

    oracle = DDIMScheduler(
        1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule=name,
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    mine = alpha_bar(kind(1000, zero_terminal_snr=True), 1000)
    assert torch.allclose(mine.float(), oracle.alphas_cumprod, rtol=2e-3, atol=1e-7)


def test_flow_and_edm_are_what_they_say():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    assert torch.equal(torch.stack(Flow()(t)), torch.stack([1 - t, t]))
    alpha, sigma = EDM(sigma_max=80, rho=7)(t)
    assert (alpha == 1).all() and float(sigma[0]) == 0 and float(sigma[-1]) == 80
    # Even steps of t are even in σ^(1/7), as EDM's eq. 5 has it.
    assert torch.allclose((sigma ** (1 / 7)).diff(), (80 ** (1 / 7) / 10) * torch.ones(10, dtype=torch.float64))


@pytest.mark.parametrize("settings", [{"sigma_max": 1.0}, {"rho": 0.5}])
def test_edm_settings_out_of_range(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))}="):
        EDM(**settings)

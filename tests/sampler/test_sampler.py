"""Samplers: exact denoisers, agreement with diffusers, and which random numbers an image sees."""

import pytest
import torch
from conftest import Exact, FiniteDenoiser, GaussianDenoiser
from diffusers import DDIMScheduler, DDPMScheduler

from diffusion.denoiser import Estimate
from diffusion.objective import Epsilon, V
from diffusion.sampler import DDIM
from diffusion.sampler.base import Noise, draw_images
from diffusion.schedule import Cosine, Level, Linear, Quadratic, Sigmoid

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", [Linear, Quadratic, Sigmoid, Cosine])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_exact_denoiser_of_a_gaussian_gives_back_the_gaussian(kind, eta):
    mean, std = 0.3, 0.5
    denoiser = GaussianDenoiser(kind(1000), mean, std)
    sampler = DDIM(steps=500, eta=eta, clip=False)
    x = draw_images(sampler, denoiser, (1, 8, 8), None, n=128, seed=0, batch_size=128, device=CPU)
    # 8192 values: standard error of the mean 0.0055, of the standard deviation 0.0039; 500 steps add a little.
    assert abs(float(x.mean()) - mean) < 0.025
    assert abs(float(x.std()) - std) < 0.02


@pytest.mark.parametrize("variance", ["posterior", "forward"])
def test_both_variances_of_ddpm_recover_unit_data(variance):
    # For data N(0, 1) the variance of the forward step is the exact one (Ho et al. 2020, section 3.2).
    denoiser = GaussianDenoiser(Linear(1000), 0.0, 1.0)
    sampler = DDIM(steps=1000, eta=1.0, variance=variance, clip=False)
    x = draw_images(sampler, denoiser, (1, 8, 8), None, n=64, seed=0, batch_size=64, device=CPU)
    assert abs(float(x.std()) - 1) < (0.03 if variance == "forward" else 0.05)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("steps", [20, 100])
def test_the_exact_denoiser_of_a_finite_set_lands_on_its_points(eta, steps, generator):
    points = torch.rand(5, 1, 4, 4, generator=generator) * 2 - 1
    x = draw_images(DDIM(steps, eta), FiniteDenoiser(Cosine(), points), (1, 4, 4), None, 40, 0, 40, CPU)
    distance = (x[:, None] - points[None]).flatten(2).norm(dim=2)
    assert float(distance.min(dim=1).values.max()) < 1e-3
    assert len(distance.argmin(dim=1).unique()) == 5


@pytest.mark.parametrize("steps", [1, 3, 7, 50, 1000])
def test_the_time_grid(steps):
    times = DDIM(steps).times(Cosine())
    assert len(times) == steps + 1
    assert times[0] == 1 and times[-1] == 0
    assert all(later < earlier for earlier, later in zip(times, times[1:], strict=False))


def given(value):
    """A stand-in for the network evaluation: the x̂_0 that the oracle's arithmetic is compared on."""
    return lambda x_t, level: Estimate(value)


def level(schedule, t):
    alpha, sigma = schedule(torch.tensor(t, dtype=torch.float64))
    return Level(t, float(alpha), float(sigma))


@pytest.mark.parametrize(("kind", "name"), [(Linear, "linear"), (Cosine, "squaredcos_cap_v2")])
@pytest.mark.parametrize("steps", [50, 1000])
@pytest.mark.parametrize(("objective", "prediction"), [(Epsilon(), "epsilon"), (V(), "v_prediction")])
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("exact", [True, False], ids=["float64 table", "own float32 table"])
def test_every_step_agrees_with_diffusers(kind, name, steps, objective, prediction, eta, exact, generator):
    """DDIM(η) and DDPM on the same network outputs: every x_s to 1e-5, from a common x_t at every step.

    diffusers accumulates ᾱ in float32. Given the same table in float64 it agrees everywhere; with its own it does
    too, but for the last steps of 1000 ancestral ones, where 1 − ᾱ cancels and its β̃ is off by up to 1e-4.
    """
    schedule, sampler = kind(1000), DDIM(steps, eta)
    common = {
        "beta_schedule": name,
        "prediction_type": prediction,
        "clip_sample": True,
        "timestep_spacing": "trailing",
    }
    ddim = DDIMScheduler(1000, beta_start=1e-4, beta_end=0.02, set_alpha_to_one=True, **common)
    oracles = [ddim, DDPMScheduler(1000, beta_start=1e-4, beta_end=0.02, **common)] if eta == 1 else [ddim]
    for oracle in oracles:
        if exact:
            oracle.alphas_cumprod = torch.cumprod(1 - schedule.betas(), 0)
            oracle.betas, oracle.alphas = schedule.betas(), 1 - schedule.betas()
            oracle.final_alpha_cumprod = oracle.one = torch.tensor(1.0, dtype=torch.float64)
        tolerance = 1e-5 if exact or eta == 0 or steps == 50 else 1e-4
        oracle.set_timesteps(steps)
        x_t = torch.randn(2, 1, 4, 4, generator=generator, dtype=torch.float64)
        times = sampler.times(schedule)
        for k, timestep in enumerate(oracle.timesteps):
            assert int(timestep) == round(times[k] * 1000) - 1
            output = torch.randn(x_t.shape, generator=generator, dtype=torch.float64)
            z = torch.randn(x_t.shape, generator=generator, dtype=torch.float64)
            t, s = level(schedule, times[k]), level(schedule, times[k + 1])
            c_skip, c_out, _ = objective.coefficients(*(torch.tensor(v, dtype=torch.float64) for v in t[1:]))
            x_0 = (c_skip * x_t + c_out * output).clamp(-1, 1)
            mine = sampler.step(given(x_0), x_t, t, s, lambda z=z: z, [])
            theirs = oracle_step(oracle, output, timestep, x_t, eta, z)
            assert float((mine - theirs).abs().max()) < tolerance, f"{type(oracle).__name__}, step {k}"
            x_t = theirs


def oracle_step(oracle, output, timestep, x_t, eta, z):
    if isinstance(oracle, DDIMScheduler):
        # use_clipped_model_output derives ε̂ anew after the clamp of x̂_0, which ancestral sampling implies.
        return oracle.step(output, timestep, x_t, eta=eta, use_clipped_model_output=True, variance_noise=z).prev_sample
    import diffusers.schedulers.scheduling_ddpm as module

    original = module.randn_tensor
    module.randn_tensor = lambda *_, **__: z
    try:
        return oracle.step(output, timestep, x_t).prev_sample
    finally:
        module.randn_tensor = original


def test_noise_is_the_same_bits_at_any_batch_size():
    whole = Noise(3, range(7), (1, 4, 4), CPU)
    parts = [Noise(3, range(4), (1, 4, 4), CPU), Noise(3, range(4, 7), (1, 4, 4), CPU)]
    for _ in range(3):
        assert torch.equal(whole(), torch.cat([part() for part in parts]))


def test_images_and_seeds_have_noise_of_their_own():
    drawn = torch.cat([Noise(seed, range(50), (1, 4, 4), CPU)().flatten(1) for seed in (0, 1)])
    assert len(drawn.unique(dim=0)) == 100


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_asked_for_seven_in_batches_of_four(eta):
    denoiser = GaussianDenoiser(Cosine(), 0.1, 0.5)
    draws = [
        draw_images(DDIM(10, eta), denoiser, (1, 4, 4), None, n=7, seed=5, batch_size=size, device=CPU)
        for size in (4, 7, 1)
    ]
    assert draws[0].shape == (7, 1, 4, 4)
    for other in draws[1:]:
        assert torch.allclose(draws[0], other, atol=1e-5)
    assert len(draws[0].flatten(1).unique(dim=0)) == 7


def test_the_last_step_adds_no_noise():
    schedule, sampler = Cosine(), DDIM(10, eta=1.0)
    x_t, x_0 = torch.randn(2, 1, 4, 4), torch.rand(2, 1, 4, 4)

    def forbidden():
        raise AssertionError("noise was drawn at the last step")

    assert torch.allclose(sampler.step(given(x_0), x_t, level(schedule, 0.1), level(schedule, 0.0), forbidden, []), x_0)


def test_a_huge_estimate_is_clamped_and_the_noise_derived_anew():
    class Huge(Exact):
        def answer(self, x_t, alpha, sigma):
            return torch.full_like(x_t, 1e6)

    seen = []
    x = draw_images(
        DDIM(20), Huge(Cosine()), (1, 4, 4), None, 2, 0, 2, CPU, observe=lambda x_t, x_0: seen.append((x_t, x_0))
    )
    assert float(x.max()) <= 1 and len(seen) == 20
    schedule = Cosine()
    times = DDIM(20).times(schedule)
    for k in range(19):  # x_s = α_s x̂_0 + σ_s ε̂ with the ε̂ for which x_t = α_t x̂_0 + σ_t ε̂
        t, s = level(schedule, times[k]), level(schedule, times[k + 1])
        eps = (seen[k][0] - t.alpha) / t.sigma
        assert torch.allclose(seen[k + 1][0], s.alpha + s.sigma * eps, atol=1e-4)


@pytest.mark.parametrize("settings", [{"steps": 0}, {"eta": 1.5}, {"eta": -0.1}, {"variance": "other"}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))}="):
        DDIM(**settings)

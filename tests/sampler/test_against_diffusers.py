"""Samplers beside the schedulers of diffusers, step by step, on the noise levels of the scheduler."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
)

from diffusion.denoiser import Estimate
from diffusion.sampler import Consistency, DPMSolver, Euler, Heun, UniPC
from diffusion.schedule import EDM, Level, levels_at


def network(x, sigma_over_alpha):
    """Some smooth estimate x̂_0 of (x_t/α, σ/α)."""
    return torch.tanh(0.7 * x / (1 + sigma_over_alpha) + 0.1 * math.sin(sigma_over_alpha))


def sigmas_of(oracle, steps):
    oracle.set_timesteps(steps)
    return [float(sigma) for sigma in oracle.sigmas]


def mine_along(sampler, sigmas, x, variance_preserving):
    """The sampler's x after every step on the noise levels of an oracle."""
    levels = []
    for k, sigma in enumerate(sigmas):
        alpha = 1 / math.sqrt(1 + sigma**2) if variance_preserving else 1.0
        levels.append(Level(1 - k / (len(sigmas) - 1), alpha, sigma * alpha))
    seen, past = [], []
    denoise = lambda x_t, at: Estimate(network(x_t / at.alpha, at.sigma / at.alpha))  # noqa: E731
    for t, s in pairwise(levels):
        x = sampler.step(denoise, x, t, s, None, past)
        seen.append(x)
    return seen


def near(mine, theirs, sigma):
    """To 1e-5, or of the size of the noise where that is larger: diffusers keeps its noise levels in float32."""
    return float((mine - theirs).abs().max()) < 1e-5 * max(1.0, sigma)


COMMON = {"beta_start": 1e-4, "beta_end": 0.02, "prediction_type": "sample", "timestep_spacing": "trailing"}


@pytest.mark.parametrize("steps", [5, 10, 20])
@pytest.mark.parametrize(
    ("make", "oracle"),
    [
        (DPMSolver, lambda: DPMSolverMultistepScheduler(solver_order=2, final_sigmas_type="zero", **COMMON)),
        (lambda n: UniPC(n, 1), lambda: UniPCMultistepScheduler(solver_order=1, final_sigmas_type="zero", **COMMON)),
        (lambda n: UniPC(n, 2), lambda: UniPCMultistepScheduler(solver_order=2, final_sigmas_type="zero", **COMMON)),
        (lambda n: UniPC(n, 3), lambda: UniPCMultistepScheduler(solver_order=3, final_sigmas_type="zero", **COMMON)),
    ],
    ids=["dpm_solver", "unipc 1", "unipc 2", "unipc 3"],
)
def test_multistep_solvers_agree_with_diffusers_at_every_step(make, oracle, steps, generator):
    scheduler = oracle()
    sigmas = sigmas_of(scheduler, steps)
    x = torch.randn(2, 1, 4, 4, generator=generator, dtype=torch.float64)
    seen, theirs = mine_along(make(steps), sigmas, x, variance_preserving=True), x
    for k, timestep in enumerate(scheduler.timesteps):
        alpha = 1 / math.sqrt(1 + sigmas[k] ** 2)
        theirs = scheduler.step(network(theirs / alpha, sigmas[k]), timestep, theirs).prev_sample
        assert float((seen[k] - theirs).abs().max()) < 1e-5, k


@pytest.mark.parametrize("steps", [5, 20])
@pytest.mark.parametrize("karras", [False, True])
def test_euler_agrees_with_diffusers_at_every_step(steps, karras, generator):
    scheduler = EulerDiscreteScheduler(use_karras_sigmas=karras, **COMMON)
    sigmas = sigmas_of(scheduler, steps)
    x = sigmas[0] * torch.randn(2, 1, 4, 4, generator=generator, dtype=torch.float64)
    seen, theirs = mine_along(Euler(steps), sigmas, x, variance_preserving=False), x
    for k, timestep in enumerate(scheduler.timesteps):
        scheduler.scale_model_input(theirs, timestep)
        theirs = scheduler.step(network(theirs, sigmas[k]), timestep, theirs).prev_sample
        assert near(seen[k], theirs, sigmas[k]), k


@pytest.mark.parametrize("steps", [5, 20])
def test_heun_agrees_with_diffusers_at_every_step(steps, generator, monkeypatch):
    scheduler = HeunDiscreteScheduler(use_karras_sigmas=True, **COMMON)
    scheduler.set_timesteps(steps)
    # Every noise level but the first and the last two stands twice, once for each evaluation.
    sigmas = [float(s) for s in scheduler.sigmas]
    mine = [sigmas[0], *sigmas[1:-1:2], 0.0]
    assert len(mine) == steps + 1
    x = sigmas[0] * torch.randn(2, 1, 4, 4, generator=generator, dtype=torch.float64)
    wide = Heun(steps, variable="sigma")
    monkeypatch.setattr("diffusion.sampler.heun.FAR", math.inf)
    seen = mine_along(wide, mine, x, variance_preserving=False)
    theirs, after = x, []
    for k, timestep in enumerate(scheduler.timesteps):
        theirs = scheduler.step(network(theirs, sigmas[k]), timestep, theirs).prev_sample
        if k % 2 == 1 or k == len(scheduler.timesteps) - 1:
            after.append(theirs)
    assert len(after) == steps
    for k, (a, b) in enumerate(zip(seen, after, strict=True)):
        assert near(a, b, mine[k]), k


@pytest.mark.parametrize("churn", [3.0, 40.0])
def test_churn_agrees_with_diffusers(churn, generator):
    """The same noise for both. diffusers takes the network's answer from its caller, who asks it before the noise is
    added; here it is asked afterwards, as in the paper."""
    steps, low, high, spread = 10, 0.05, 12.0, 1.003
    scheduler = EulerDiscreteScheduler(use_karras_sigmas=True, **COMMON)
    sigmas = sigmas_of(scheduler, steps)
    sampler = Euler(steps, churn=churn, churn_low=low, churn_high=high, churn_noise=spread)
    x = sigmas[0] * torch.randn(2, 1, 4, 4, generator=generator, dtype=torch.float64)
    theirs, stirred = x, 0
    denoise = lambda x_t, at: Estimate(network(x_t, at.sigma))  # noqa: E731
    denoise.schedule = EDM(sigma_max=1000.0)
    levels = levels_at(
        denoise.schedule,
        [denoise.schedule.time_at(torch.tensor(-2 * math.log(s), dtype=torch.float64)) for s in sigmas[:-1]],
    )
    for k, timestep in enumerate(scheduler.timesteps):
        seed = torch.Generator().manual_seed(k)
        noise = torch.randn(x.shape, generator=seed, dtype=torch.float64)
        s = levels[k + 1] if k + 1 < steps else Level(0.0, 1.0, 0.0)
        x = sampler.step(denoise, x, levels[k], s, lambda noise=noise: noise, [])
        gamma = min(churn / steps, math.sqrt(2) - 1) if low <= sigmas[k] <= high else 0.0
        stirred += gamma > 0
        added = math.sqrt((1 + gamma) ** 2 - 1) * sigmas[k] * spread
        answer = network(theirs + added * noise, sigmas[k] * (1 + gamma))
        scheduler.scale_model_input(theirs, timestep)
        theirs = scheduler.step(
            answer, timestep, theirs, s_churn=churn, s_tmin=low, s_tmax=high, s_noise=spread,
            generator=seed.manual_seed(k),
        ).prev_sample  # fmt: skip
        assert near(x, theirs, sigmas[k]), k
    assert 3 < stirred < steps


@pytest.mark.parametrize("steps", [5, 20])
def test_flow_steps_agree_with_diffusers(steps, generator):
    """α = 1 − σ; the scheduler takes the velocity ε − x_0."""
    velocity = lambda x, sigma: (x - network(x, sigma)) / sigma  # noqa: E731
    x = torch.randn(2, 1, 4, 4, generator=generator, dtype=torch.float64)
    for scheduler, sampler in (
        (FlowMatchEulerDiscreteScheduler(shift=3.0), Euler(steps)),
        (FlowMatchHeunDiscreteScheduler(shift=3.0), Heun(steps, variable="flow")),
    ):
        sigmas = sigmas_of(scheduler, steps)
        mine = sigmas if isinstance(scheduler, FlowMatchEulerDiscreteScheduler) else [*sigmas[:1], *sigmas[1:-1:2], 0.0]
        levels = [Level(sigma, 1 - sigma, sigma) for sigma in mine]
        ours, seen = x, []
        for t, s in pairwise(levels):
            ours = sampler.step(lambda x_t, at: Estimate(network(x_t, at.sigma)), ours, t, s, None, [])
            seen.append(ours)
        theirs, after = x, []
        for k, timestep in enumerate(scheduler.timesteps):
            theirs = scheduler.step(velocity(theirs, sigmas[k]), timestep, theirs).prev_sample.double()
            if len(mine) == len(sigmas) or (k % 2 == 1) or k == len(scheduler.timesteps) - 1:
                after.append(theirs)
        assert len(after) == len(seen) == steps
        for k in range(steps):
            assert near(seen[k], after[k], 1.0), (type(scheduler).__name__, k)


@pytest.mark.parametrize("steps", [5, 20])
@pytest.mark.parametrize(
    ("make", "oracle"), [(Euler, EDMEulerScheduler), (DPMSolver, EDMDPMSolverMultistepScheduler)], ids=["euler", "dpm"]
)
def test_edm_steps_agree_with_diffusers(make, oracle, steps, generator):
    """α = 1; the scheduler takes the output F of a network with EDM's preconditioning."""
    settings = {} if oracle is EDMEulerScheduler else {"solver_order": 2, "algorithm_type": "dpmsolver++"}
    scheduler = oracle(sigma_data=0.5, **settings)
    sigmas = sigmas_of(scheduler, steps)
    x = sigmas[0] * torch.randn(2, 1, 4, 4, generator=generator, dtype=torch.float64)
    seen, theirs = mine_along(make(steps), sigmas, x, variance_preserving=False), x
    for k, timestep in enumerate(scheduler.timesteps):
        scheduler.scale_model_input(theirs, timestep)
        square = sigmas[k] ** 2 + 0.25
        output = (network(theirs, sigmas[k]) - 0.25 / square * theirs) * math.sqrt(square) / (0.5 * sigmas[k])
        theirs = scheduler.step(output, timestep, theirs).prev_sample
        assert near(seen[k], theirs, sigmas[k]), k


def test_consistency_steps_agree_with_diffusers(generator):
    scheduler = LCMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", prediction_type="sample",
                             clip_sample=False, timestep_scaling=1e6)  # fmt: skip
    scheduler.set_timesteps(4)
    alphas = [float(scheduler.alphas_cumprod[t]) ** 0.5 for t in scheduler.timesteps]
    levels = [Level(1 - k / 4, alpha, math.sqrt(1 - alpha**2)) for k, alpha in enumerate(alphas)] + [Level(0, 1, 0)]
    x = theirs = torch.randn(2, 1, 4, 4, generator=generator, dtype=torch.float64)
    for k, timestep in enumerate(scheduler.timesteps):
        seed = torch.Generator().manual_seed(k)
        noise = torch.randn(x.shape, generator=seed, dtype=torch.float64)
        answer = network(theirs / alphas[k], levels[k].ratio)
        denoise = lambda x_t, at: Estimate(network(x_t / at.alpha, at.ratio))  # noqa: E731
        x = Consistency(4).step(denoise, x, levels[k], levels[k + 1], lambda noise=noise: noise, [])
        theirs = scheduler.step(answer, timestep, theirs, generator=seed.manual_seed(k)).prev_sample
        assert near(x, theirs, 1.0), k

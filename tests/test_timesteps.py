"""Distributions of training times."""

import math

import pytest
import torch

from diffusion.schedule import EDM, Cosine, Flow, Linear
from diffusion.timesteps import Discrete, LogitNormal, LogNormal, LossAware, Stratified, Uniform


def test_discrete_reaches_every_step_and_no_other(generator):
    t = Discrete(50)(torch.rand(100_000, generator=generator))
    values, counts = t.unique(return_counts=True)
    assert torch.allclose(values, torch.arange(1, 51) / 50)
    expected, deviation = 2000, math.sqrt(100_000 * (1 / 50) * (49 / 50))
    assert (counts - expected).abs().max() < 5 * deviation


def test_discrete_ends_hold_at_the_ends_of_u():
    ends = Discrete(1000)(torch.tensor([0.0, 1 - 2**-24]))
    assert torch.equal(ends, torch.tensor([1 / 1000, 1.0]))


def test_uniform_never_gives_zero(generator):
    t = Uniform()(torch.cat([torch.zeros(1), torch.rand(10_000, generator=generator)]))
    assert float(t.min()) > 0 and float(t.max()) == 1
    assert abs(float(t.mean()) - 0.5) < 0.02


def test_logit_normal_has_its_moments(generator):
    t = LogitNormal(mean=0.5, std=0.8)(torch.rand(200_000, generator=generator, dtype=torch.float64))
    logit = torch.logit(t)
    assert abs(float(logit.mean()) - 0.5) < 0.01 and abs(float(logit.std()) - 0.8) < 0.01


def test_discrete_takes_the_steps_of_the_schedule():
    assert Discrete(schedule=Linear(50)).steps == 50 and Discrete(schedule=Flow()).steps == 1000


def test_stratified_has_one_time_in_every_part(generator):
    t = Stratified()(torch.rand(64, generator=generator))
    assert torch.equal((t * 64).ceil().sort().values, torch.arange(1.0, 65))
    nearly_one = torch.full((64,), 1 - 2**-24)  # (63 + u)/64 rounds up to 1
    assert float(Stratified()(nearly_one).min()) > 0
    many = torch.cat([Stratified()(torch.rand(64, generator=generator)) for _ in range(500)])
    assert abs(float(many.mean()) - 0.5) < 0.002 and abs(float(many.std()) - 1 / math.sqrt(12)) < 0.002


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), Flow(), EDM()])
def test_log_normal_has_its_moments_on_every_schedule(schedule, generator):
    t = LogNormal(schedule, mean=-0.5, std=0.7)(torch.rand(200_000, generator=generator, dtype=torch.float64))
    alpha, sigma = schedule(t)
    log = (sigma / alpha).log()
    assert abs(float(log.mean()) + 0.5) < 0.01 and abs(float(log.std()) - 0.7) < 0.01


def loss_of(t):
    return 0.1 + 3 * (t - 0.3).square()


def learned(generator, **settings):
    """A sampler that has seen `loss_of` at many times."""
    times = LossAware(bins=20, **settings)
    for _ in range(300):
        t = times(torch.rand(64, generator=generator))
        times.observe(t, loss_of(t))
    return times


def test_loss_aware_is_uniform_until_every_bin_has_been_seen(generator):
    times, u = LossAware(bins=20), torch.rand(5000, generator=generator)
    assert torch.allclose(times(u), u.clamp(min=1e-6), atol=1e-5)
    t = torch.linspace(0.001, 0.5, 1000)  # the upper bins stay empty
    times.observe(t, torch.full_like(t, 100.0))
    assert torch.allclose(times.probabilities(), torch.full((20,), 1 / 20))
    assert torch.allclose(times.weight(t), torch.ones(1000))


def test_loss_aware_probabilities_follow_the_root_mean_square(generator):
    times = learned(generator, uniform=0.01)
    middles = (torch.arange(20) + 0.5) / 20
    expected = loss_of(middles)  # the loss of a bin hardly varies inside it
    expected = 0.99 * expected / expected.sum() + 0.01 / 20
    assert torch.allclose(times.probabilities(), expected, rtol=0.1)
    t = times(torch.rand(200_000, generator=generator))
    share = torch.bincount(((t * 20).ceil().long() - 1).clamp(0), minlength=20) / 200_000
    assert torch.allclose(share, times.probabilities(), atol=0.003)


def test_loss_aware_weights_keep_the_expected_loss_and_lower_its_variance(generator):
    times = learned(generator)
    t = times(torch.rand(200_000, generator=generator))
    weighted, plain = loss_of(t) * times.weight(t), loss_of(torch.rand(200_000, generator=generator))
    true = 0.1 + (0.7**3 + 0.3**3)  # the integral of loss_of over (0, 1)
    assert abs(float(weighted.mean()) - true) < 0.005 and abs(float(plain.mean()) - true) < 0.005
    assert float(weighted.std()) < 0.3 * float(plain.std())


def test_what_loss_aware_has_learned_goes_round(generator):
    times, other = learned(generator), LossAware(bins=20)
    other.load_state_dict(times.state_dict())
    u = torch.rand(100, generator=generator)
    assert torch.equal(times(u), other(u)) and not torch.equal(LossAware(bins=20)(u), other(u))


def test_bad_settings_are_refused():
    for settings in ({"bins": 1}, {"memory": 0}, {"uniform": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(settings))}="):
            LossAware(**settings)
    with pytest.raises(ValueError, match="std=0"):
        LogNormal(Flow(), std=0)
    with pytest.raises(ValueError, match="std=0"):
        LogitNormal(std=0)
    with pytest.raises(ValueError, match="steps=0"):
        Discrete(0)

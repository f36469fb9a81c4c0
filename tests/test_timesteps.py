"""Distributions of training times."""

import math

import pytest
import torch

from diffusion.timesteps import Discrete, LogitNormal, Uniform


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


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="std=0"):
        LogitNormal(std=0)
    with pytest.raises(ValueError, match="steps=0"):
        Discrete(0)

"""The scores and the sampler that the notebooks 2 and 3 write by themselves."""

import numpy as np
import pytest
import torch
from conftest import FiniteDenoiser
from test_definitions import definitions

from diffusion.data.images import decode
from diffusion.evaluation import metrics
from diffusion.sampler import DDIM
from diffusion.sampler.base import Noise
from diffusion.schedule import Cosine, Linear


@pytest.fixture(scope="module")
def scorer():
    return definitions("2_scorer")


def test_inception_score_of_sure_verdicts_is_the_number_of_classes(scorer):
    sure = 1000 * np.eye(10)[np.arange(40) % 10]
    assert scorer["inception_score"](sure) == pytest.approx(10)
    assert scorer["inception_score"](sure[::10]) == pytest.approx(1)
    assert scorer["inception_score"](np.zeros((40, 10))) == pytest.approx(1)


def test_inception_score_is_the_package_s(scorer):
    logits = np.random.default_rng(0).normal(size=(50, 10), scale=3)
    assert scorer["inception_score"](logits) == pytest.approx(metrics.inception_score(logits, splits=1)[0], abs=1e-9)


def test_fid_of_a_shift_and_of_a_stretch(scorer):
    x = np.random.default_rng(0).normal(size=(300, 5))
    assert scorer["fid"](x, x) == pytest.approx(0, abs=1e-6)
    assert scorer["fid"](x, x + np.array([3, 0, 4, 0, 0])) == pytest.approx(25)
    assert scorer["fid"](x - x.mean(axis=0), 3 * (x - x.mean(axis=0))) == pytest.approx(4 * np.trace(np.cov(x.T)))


def test_fid_is_the_package_s(scorer):
    random = np.random.default_rng(0)
    x, y = random.normal(size=(60, 8)), random.normal(size=(90, 8)) @ random.normal(size=(8, 8))
    assert scorer["fid"](x, y) == pytest.approx(metrics.frechet_distance(x, y), abs=1e-9)


class Exact:
    """What `draw` needs of a model, exact for a few images."""

    def __init__(self, schedule, images):
        self.denoiser = FiniteDenoiser(schedule, images)
        self.schedule = schedule

    def denoise(self, x, t):
        return self.denoiser(x, float(t))

    def noise_level(self, t):
        return self.schedule(torch.as_tensor(t))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("schedule", [Linear(), Cosine()])
def test_the_sampler_draws_what_the_package_draws(generator, schedule, eta):
    model = Exact(schedule, torch.rand(5, 1, 28, 28, generator=generator) * 2 - 1)

    def noise():
        return Noise(seed=0, indices=range(6), shape=(1, 28, 28), device=torch.device("cpu"))

    images, path = definitions("3_unconditional")["draw"](model, noise(), 12, eta)
    expected = DDIM(12, eta=eta).sample(model.denoiser, noise())
    assert len(path) == 12 and path[0][0].shape == path[-1][1].shape == (6, 1, 28, 28)
    assert int((images.int() - decode(expected).int()).abs().max()) <= 1

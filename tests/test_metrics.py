"""Scores against closed forms, SciPy's general matrix root and torchmetrics."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from diffusion.evaluation.metrics import (
    accuracy,
    class_accuracies,
    frechet_distance,
    gaussian_statistics,
    inception_score,
)


@pytest.fixture
def random():
    return np.random.default_rng(0)


def correlated(random, n, d):
    return random.normal(size=(n, d)) @ random.normal(size=(d, d)) + random.normal(size=d)


def test_statistics_use_n_minus_one(random):
    x = correlated(random, 50, 6)
    mean, covariance = gaussian_statistics(x)
    assert np.allclose(mean, x.mean(0)) and np.allclose(covariance, np.cov(x, rowvar=False))


@pytest.mark.parametrize("n", [10, 500])
def test_the_distance_to_oneself_is_zero_and_never_negative(random, n):
    x = correlated(random, n, 32)  # also with fewer samples than dimensions
    assert 0 <= frechet_distance(x, x) < 1e-6


def test_a_shift_costs_its_square(random):
    x = correlated(random, 200, 8)
    d = random.normal(size=8)
    assert math.isclose(frechet_distance(x, x + d), d @ d, rel_tol=1e-9)


def test_closed_form_for_diagonal_gaussians():
    a, b = np.array([1.0, 4.0, 9.0]), np.array([4.0, 1.0, 16.0])
    mean_a, mean_b = np.zeros(3), np.array([1.0, 2.0, 2.0])
    expected = 9 + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert math.isclose(frechet_distance((mean_a, np.diag(a)), (mean_b, np.diag(b))), expected, rel_tol=1e-12)


def test_symmetric_and_equal_to_the_general_matrix_root(random):
    a, b = correlated(random, 300, 16), correlated(random, 200, 16)
    (mean_a, cov_a), (mean_b, cov_b) = gaussian_statistics(a), gaussian_statistics(b)
    root = np.real(sqrtm(cov_a @ cov_b))
    expected = ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)
    assert math.isclose(frechet_distance(a, b), expected, rel_tol=1e-9)
    assert math.isclose(frechet_distance(a, b), frechet_distance(b, a), rel_tol=1e-9)


def test_fid_equals_torchmetrics_on_the_same_features(random):
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Given(torch.nn.Module):
        num_features = 24

        def forward(self, x):
            return x

    a, b = correlated(random, 400, 24), correlated(random, 300, 24)
    oracle = FrechetInceptionDistance(feature=Given(), normalize=True).set_dtype(torch.float64)
    oracle.update(torch.from_numpy(a), real=True)
    oracle.update(torch.from_numpy(b), real=False)
    assert math.isclose(frechet_distance(a, b), float(oracle.compute()), rel_tol=1e-6)


def test_inception_score_equals_torchmetrics_on_the_same_logits(random, monkeypatch):
    from torchmetrics.image.inception import InceptionScore

    class Given(torch.nn.Module):
        def forward(self, x):
            return x

    logits = 3 * random.normal(size=(1000, 10))
    oracle = InceptionScore(feature=Given(), splits=10)
    oracle.update(torch.from_numpy(logits))
    monkeypatch.setattr(torch, "randperm", torch.arange)  # it shuffles; here the splits come in the order given
    mean, std = oracle.compute()
    mine = inception_score(logits, 10)
    assert math.isclose(mine[0], float(mean), rel_tol=1e-6)
    assert math.isclose(mine[1] * math.sqrt(10 / 9), float(std), rel_tol=1e-6)  # torchmetrics divides by n − 1


def test_inception_score_of_certain_and_of_uncertain_classifiers():
    certain = np.tile(1e6 * np.eye(10), (20, 1))  # the other probabilities underflow to exactly 0
    assert math.isclose(inception_score(certain, 10)[0], 10, rel_tol=1e-9)
    assert math.isclose(inception_score(np.zeros((100, 10)), 10)[0], 1, rel_tol=1e-9)
    infinite = np.full((20, 2), -np.inf)
    infinite[:10, 0] = infinite[10:, 1] = 0
    assert math.isclose(inception_score(infinite, 1)[0], 2, rel_tol=1e-9)


def test_splits_out_of_range_are_refused():
    with pytest.raises(ValueError, match="splits=11"):
        inception_score(np.zeros((10, 3)), 11)


def test_accuracies():
    logits = np.eye(3)[[0, 1, 1, 0]]
    labels = np.array([0, 1, 0, 0])
    assert accuracy(logits, labels) == 0.75
    assert class_accuracies(logits, labels, 3) == [2 / 3, 1.0, None]

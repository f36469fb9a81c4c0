"""Scores against closed forms, SciPy, scikit-learn, torchmetrics, torch-fidelity and prdc."""

import math

import numpy as np
import pytest
import torch
from prdc import compute_prdc
from scipy.linalg import sqrtm
from sklearn.covariance import EmpiricalCovariance
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics.pairwise import euclidean_distances, polynomial_kernel
from torch_fidelity.metric_fid import fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from diffusion.evaluation import metrics
from diffusion.evaluation.manifold import density_coverage, neighbour_radii, precision_recall, squared_distances
from diffusion.evaluation.metrics import (
    Moments,
    accuracy,
    class_accuracies,
    confusion_matrix,
    diversity,
    frechet_distance,
    frechet_distance_infinite,
    inception_score,
    kernel_distance,
    kernel_distance_subsets,
)


@pytest.fixture
def random():
    return np.random.default_rng(0)


def correlated(random, n, d):
    return random.normal(size=(n, d)) @ random.normal(size=(d, d)) + random.normal(size=d)


def near(a, b, tolerance=1e-10):
    return math.isclose(a, float(b), rel_tol=tolerance)


# ------------------------------------------------------------------------------------------------- moments


def test_moments_use_n_minus_one_and_equal_scikit_learn(random):
    x = correlated(random, 50, 6)
    moments = Moments.of(x)
    assert np.allclose(moments.mean, x.mean(0), rtol=1e-13)
    assert np.allclose(moments.covariance, np.cov(x, rowvar=False), rtol=1e-12)
    assert np.allclose(moments.covariance * 49 / 50, EmpiricalCovariance().fit(x).covariance_, rtol=1e-12)


@pytest.mark.parametrize("cuts", [[1], [1, 2, 49], [10, 20, 30]])
def test_streamed_moments_equal_those_of_the_whole(random, cuts):
    x = 1e3 + correlated(random, 50, 6)  # far from zero, where naive sums of squares lose digits
    whole, streamed = Moments.of(x), Moments.empty(6)
    for part in np.split(x, cuts):
        streamed += Moments.of(part)
    assert streamed.n == 50 and np.allclose(streamed.mean, whole.mean, rtol=1e-13)
    assert np.allclose(streamed.scatter, whole.scatter, rtol=1e-10)


def test_moments_of_nothing_are_refused():
    with pytest.raises(ValueError, match="at least one row"):
        Moments.of(np.zeros((0, 3)))
    with pytest.raises(ValueError, match="a covariance of 1 images"):
        frechet_distance(np.zeros((1, 3)), np.zeros((5, 3)))
    with pytest.raises(ValueError, match="3 and 4 features"):
        frechet_distance(np.zeros((5, 3)), np.zeros((5, 4)))


# ----------------------------------------------------------------------------------------------------- FID


@pytest.mark.parametrize("n", [10, 500])
def test_the_distance_to_oneself_is_zero_and_never_negative(random, n):
    x = correlated(random, n, 32)  # also with fewer samples than dimensions
    assert 0 <= frechet_distance(x, x) < 1e-6


def test_a_shift_costs_its_square(random):
    x = correlated(random, 200, 8)
    d = random.normal(size=8)
    assert near(frechet_distance(x, x + d), d @ d, 1e-9)


def diagonal(mean, variance):
    return Moments(11, np.array(mean, float), 10 * np.diag(variance))


def test_closed_form_for_diagonal_gaussians():
    a, b = np.array([1.0, 4.0, 9.0]), np.array([4.0, 1.0, 16.0])
    expected = 9 + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert near(frechet_distance(diagonal([0, 0, 0], a), diagonal([1, 2, 2], b)), expected, 1e-12)


def test_symmetric_and_equal_to_the_general_matrix_root(random):
    a, b = correlated(random, 300, 16), correlated(random, 200, 16)
    root = np.real(sqrtm(Moments.of(a).covariance @ Moments.of(b).covariance))
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    assert near(frechet_distance(a, b), expected)
    assert near(frechet_distance(a, b), frechet_distance(b, a))


def test_fid_equals_torch_fidelity_and_torchmetrics_on_the_same_features(random):
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Given(torch.nn.Module):
        num_features = 24

        def forward(self, x):
            return x

    a, b = correlated(random, 400, 24), correlated(random, 300, 24)
    stats = [{"mu": x.mean(0), "sigma": np.cov(x, rowvar=False)} for x in (a, b)]
    other = fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]
    assert near(frechet_distance(a, b), other)
    oracle = FrechetInceptionDistance(feature=Given(), normalize=True).set_dtype(torch.float64)
    oracle.update(torch.from_numpy(a), real=True)
    oracle.update(torch.from_numpy(b), real=False)
    assert near(frechet_distance(a, b), oracle.compute())


def test_fid_of_perfect_samples_falls_like_one_over_n(random):
    reference = Moments(10**9, np.zeros(4), 10**9 * np.eye(4))
    means = [np.mean([frechet_distance(random.normal(size=(n, 4)), reference) for _ in range(100)]) for n in (50, 400)]
    assert 6 < means[0] / means[1] < 10.5  # 8 in the limit


# ---------------------------------------------------------------------------------------------------- FID∞


def test_the_extrapolation_finds_the_distance_that_infinitely_many_images_would_have(random):
    reference = Moments(10**9, np.zeros(4), 10**9 * np.eye(4))
    shift = np.array([0.3, 0, 0, 0])  # true FID 0.09
    found = [
        frechet_distance_infinite([Moments.of(random.normal(size=(250, 4)) + shift) for _ in range(8)], reference)
        for _ in range(40)
    ]
    finite = np.mean([fit.distances[-1] for fit in found])
    infinite = [fit.infinite for fit in found]
    error = np.std(infinite) / math.sqrt(len(infinite))
    assert abs(np.mean(infinite) - 0.09) < 3 * error
    assert finite - 0.09 > 3 * error and found[0].sizes == [250, 500, 1000, 2000]


def test_the_line_is_that_of_least_squares():
    blocks = [diagonal([x], [1.0]) for x in (1.0, 2.0)]  # FID of each block: x², of both together: something else
    fit = frechet_distance_infinite(blocks, diagonal([0.0], [1.0]))
    assert fit.sizes == [11, 22] and near(fit.distances[0], (1 + 4) / 2, 1e-12)
    assert near(fit.infinite + fit.slope / 11, fit.distances[0], 1e-9) and fit.residual < 1e-9  # two points, one line
    with pytest.raises(ValueError, match="power of two"):
        frechet_distance_infinite([blocks[0]] * 3, blocks[0])


# ----------------------------------------------------------------------------------------------------- KID


def test_kid_equals_torch_fidelity_on_the_same_subsets(random):
    a, b = correlated(random, 300, 12), correlated(random, 260, 12)
    other = kid_features_to_metric(
        torch.from_numpy(a), torch.from_numpy(b), kid_subsets=20, kid_subset_size=100, rng_seed=2020, verbose=False
    )
    mean, std = kernel_distance_subsets(a, b, 20, 100, np.random.RandomState(2020))
    assert near(mean, other[KEY_METRIC_KID_MEAN]) and near(std, other[KEY_METRIC_KID_STD])


def test_kid_equals_torchmetrics_and_scikit_learns_kernel(random):
    from torchmetrics.image.kid import poly_mmd

    a, b = correlated(random, 200, 12), correlated(random, 200, 12)
    assert near(kernel_distance(a, b), poly_mmd(torch.from_numpy(a), torch.from_numpy(b)))
    b = b[:150]  # sides of different size, by the definition
    k_aa, k_bb, k_ab = (polynomial_kernel(x, y, degree=3) for x, y in ((a, a), (b, b), (a, b)))
    expected = (k_aa.sum() - np.trace(k_aa)) / (200 * 199) + (k_bb.sum() - np.trace(k_bb)) / (150 * 149)
    assert near(kernel_distance(a, b), expected - 2 * k_ab.mean())


def test_kid_is_unbiased_and_does_not_depend_on_the_chunks(random, monkeypatch):
    values = [kernel_distance(random.normal(size=(20, 3)), random.normal(size=(30, 3))) for _ in range(400)]
    assert abs(np.mean(values)) < 3 * np.std(values) / 20 and min(values) < 0
    a, b = correlated(random, 200, 12), correlated(random, 150, 12)
    whole = kernel_distance(a, b)
    monkeypatch.setattr(metrics, "ROWS", 7)
    assert near(kernel_distance(a, b), whole, 1e-12)


# ------------------------------------------------------------------------------------------- nearest neighbours


@pytest.mark.parametrize(("m", "n", "k"), [(300, 200, 3), (200, 300, 5), (150, 150, 1)])
def test_neighbour_scores_equal_prdc_exactly(random, m, n, k, monkeypatch):
    monkeypatch.setattr(metrics, "ROWS", 64)
    real, generated = random.normal(size=(m, 8)), random.normal(size=(n, 8)) * 0.8 + 0.3
    other = compute_prdc(real, generated, k)
    assert precision_recall(real, generated, k) == (other["precision"], other["recall"])
    density, coverage = density_coverage(real, generated, k)
    assert near(density, other["density"], 1e-14) and coverage == other["coverage"]
    radii = neighbour_radii(real, k)
    assert precision_recall(real, generated, k, radii) == (other["precision"], other["recall"])


def test_precision_and_recall_equal_torch_fidelity(random):
    real, generated = random.normal(size=(300, 8)), random.normal(size=(200, 8)) * 0.8
    other = prc_features_to_metric(
        torch.from_numpy(generated), torch.from_numpy(real), prc_neighborhood=3, prc_batch_size=100, verbose=False
    )
    assert np.float32(precision_recall(real, generated, 3)).tolist() == [other["precision"], other["recall"]]


def test_squared_distances_equal_scikit_learn_and_copies_are_at_zero(random):
    a = 100 + random.normal(size=(50, 6))
    b = np.concatenate([a[:5], 100 + random.normal(size=(20, 6))])
    found = squared_distances(a, b)
    assert np.allclose(found, euclidean_distances(a, b, squared=True), rtol=1e-8, atol=1e-9)
    assert (np.diag(found[:5, :5]) == 0).all() and (found >= 0).all()


def test_what_precision_and_recall_mean(random):
    real = random.normal(size=(500, 4))
    half = real[real[:, 0] > 0] + 1e-6  # perfect images of one half of the data
    precision, recall = precision_recall(real, half, 3)
    assert precision == 1 and 0.4 < recall < 0.65
    assert precision_recall(real, real + 100, 3) == (0, 0)
    one = np.tile(real[:1], (500, 1))  # one image for ever
    assert precision_recall(real, one, 3) == (1, 0)
    assert density_coverage(real, one, 5)[1] < 0.1


def test_density_of_real_images_is_one(random):
    found = [density_coverage(random.normal(size=(300, 4)), random.normal(size=(300, 4)), 5) for _ in range(30)]
    assert abs(np.mean([density for density, _ in found]) - 1) < 0.03
    assert abs(np.mean([coverage for _, coverage in found]) - (1 - 2**-5)) < 0.01  # 1 − Π (n−i)/(2n−i), about 1 − 2^−k


def test_too_few_images_for_k_are_refused(random):
    with pytest.raises(ValueError, match="k=3 must lie between 1 and 2"):
        precision_recall(random.normal(size=(3, 2)), random.normal(size=(9, 2)), 3)


def test_diversity_is_the_root_mean_square_distance_of_all_pairs(random):
    x = correlated(random, 40, 5)
    squares = euclidean_distances(x, squared=True)
    assert near(diversity(Moments.of(x)), math.sqrt(squares.sum() / (40 * 39)), 1e-9)


# ---------------------------------------------------------------------------------------- Inception Score


def test_inception_score_equals_torch_fidelity_and_torchmetrics_on_the_same_logits(random, monkeypatch):
    from torchmetrics.image.inception import InceptionScore

    class Given(torch.nn.Module):
        def forward(self, x):
            return x

    logits = 3 * random.normal(size=(1000, 10))
    mean, std = inception_score(logits, 10)
    other = isc_features_to_metric(torch.from_numpy(logits), splits=10, shuffle=False)
    assert near(mean, other["inception_score_mean"]) and near(std, other["inception_score_std"])
    oracle = InceptionScore(feature=Given(), splits=10)
    oracle.update(torch.from_numpy(logits))
    monkeypatch.setattr(torch, "randperm", torch.arange)  # it shuffles; here the splits come in the order given
    found = oracle.compute()
    assert near(mean, found[0]) and near(std * math.sqrt(10 / 9), found[1])  # it divides by n − 1


def test_inception_score_of_certain_and_of_uncertain_classifiers():
    certain = np.tile(1e6 * np.eye(10), (20, 1))  # the other probabilities underflow to exactly 0
    assert near(inception_score(certain, 10)[0], 10, 1e-9)
    assert near(inception_score(np.zeros((100, 10)), 10)[0], 1, 1e-9)
    infinite = np.full((20, 2), -np.inf)
    infinite[:10, 0] = infinite[10:, 1] = 0
    assert near(inception_score(infinite, 1)[0], 2, 1e-9)


def test_splits_out_of_range_are_refused():
    with pytest.raises(ValueError, match="splits=11"):
        inception_score(np.zeros((10, 3)), 11)


# ------------------------------------------------------------------------------------------------- accuracy


def test_accuracies():
    logits = np.eye(3)[[0, 1, 1, 0]]
    confusion = confusion_matrix(logits, np.array([0, 1, 0, 0]), 3)
    assert confusion.tolist() == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert accuracy(confusion) == 0.75
    assert class_accuracies(confusion) == [2 / 3, 1.0, None]


def test_the_confusion_matrix_equals_scikit_learns(random):
    logits, labels = random.normal(size=(200, 5)), random.integers(0, 5, 200)
    assert np.array_equal(confusion_matrix(logits, labels, 5), sklearn_confusion(labels, logits.argmax(1)))

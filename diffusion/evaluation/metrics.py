"""Scores of generated images as functions of feature arrays (n, d); NumPy in, floats out, everything in float64.

Each depends on n and on the features, so it means something only beside the same figure of real images under the
same protocol. Those of nearest neighbours are in `manifold.py`.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh
from scipy.special import log_softmax

ROWS = 1000  # of a matrix of pairs that are held at once
Generator = np.random.Generator | np.random.RandomState  # what draws subsets


# ------------------------------------------------------------------------------------------------- moments


class Moments:
    """Number n, mean (d,) and scatter Σ (x − mean)(x − mean)ᵀ (d, d) of features that may come in parts.

    Parts are joined by the formula of Chan, Golub & LeVeque 1983, which is as exact as one pass over the whole.
    """

    def __init__(self, n: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        self.n, self.mean, self.scatter = n, mean, scatter

    @classmethod
    def of(cls, features: np.ndarray) -> "Moments":
        """The moments of features (n, d), n ≥ 1."""
        features = np.asarray(features, np.float64)
        if features.ndim != 2 or len(features) < 1:
            raise ValueError(f"features of shape {features.shape}: at least one row is needed, one per image")
        mean = features.mean(axis=0)
        centred = features - mean
        return cls(len(features), mean, centred.T @ centred)

    @classmethod
    def empty(cls, d: int) -> "Moments":
        """Of no image yet."""
        return cls(0, np.zeros(d), np.zeros((d, d)))

    def __add__(self, other: "Moments") -> "Moments":
        """The moments of both sets of images together."""
        if self.mean.shape != other.mean.shape:
            raise ValueError(f"the two sets have {len(self.mean)} and {len(other.mean)} features")
        n = self.n + other.n
        shift = other.mean - self.mean
        scatter = self.scatter + other.scatter + np.outer(shift, shift) * (self.n * other.n / n)
        return Moments(n, self.mean + shift * (other.n / n), scatter)

    @property
    def covariance(self) -> np.ndarray:
        """(d, d), normalised by n − 1."""
        if self.n < 2:
            raise ValueError(f"a covariance of {self.n} images: at least 2 are needed")
        return self.scatter / (self.n - 1)

    @cached_property
    def root(self) -> np.ndarray:
        """A matrix R with R·Rᵀ = covariance."""
        values, vectors = eigh(self.covariance)
        return vectors * np.sqrt(values.clip(min=0))


# --------------------------------------------------------------------------------------- distances of Gaussians


def frechet_distance(a: np.ndarray | Moments, b: np.ndarray | Moments) -> float:
    """Fréchet distance of the Gaussians with the moments of two sets (FID, https://arxiv.org/abs/1706.08500, eq. 6).

        FID = |μ_a − μ_b|² + tr(Σ_a + Σ_b − 2 (Σ_b^½ Σ_a Σ_b^½)^½)

    The trace of the root is the sum of the roots of the eigenvalues of a symmetric matrix, so no general matrix root
    is needed. Never negative.

    Args:
        a, b: features (n, d) or their `Moments`; with the same b many times, its root is computed once.
    """
    a, b = (x if isinstance(x, Moments) else Moments.of(x) for x in (a, b))
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"the two sets have {len(a.mean)} and {len(b.mean)} features")
    covariance = a.covariance
    overlap = np.sqrt(eigh(b.root.T @ covariance @ b.root, eigvals_only=True).clip(min=0)).sum()
    difference = a.mean - b.mean
    distance = difference @ difference + np.trace(covariance) + np.trace(b.covariance) - 2 * overlap
    return max(float(distance), 0.0)


class Extrapolation(NamedTuple):
    """A line through FIDs of several n: FID(n) ≈ infinite + slope / n."""

    infinite: float
    slope: float
    sizes: list[int]
    distances: list[float]

    @property
    def residual(self) -> float:
        """The largest distance of a point from the line."""
        fit = self.infinite + self.slope / np.array(self.sizes)
        return float(np.abs(fit - self.distances).max())


def frechet_distance_infinite(blocks: Sequence[Moments], reference: Moments) -> Extrapolation:
    """FID extrapolated to infinitely many images (https://arxiv.org/abs/1911.07023): its bias falls like 1/n.

    Args:
        blocks: of disjoint sets of equally many images in random order; their number is a power of two, at least 2.
        reference: of the real images.

    Returns:
        the least-squares line through the FID at n, n/2, n/4, … (each the mean over the disjoint sets of that size),
        down to single blocks. The intercept can be negative, which says that it is zero within its error.
    """
    parts, sizes, distances = list(blocks), [], []
    if len(parts) < 2 or len(parts) & (len(parts) - 1):
        raise ValueError(f"{len(parts)} blocks: their number must be a power of two, at least 2")
    while parts:
        sizes.append(round(sum(part.n for part in parts) / len(parts)))
        distances.append(float(np.mean([frechet_distance(part, reference) for part in parts])))
        parts = [first + second for first, second in zip(parts[::2], parts[1::2], strict=False)]
    slope, infinite = np.polyfit(1 / np.array(sizes), distances, 1)
    return Extrapolation(float(infinite), float(slope), sizes, distances)


def diversity(moments: Moments) -> float:
    """Root mean square distance of two different images: the mean of |x_i − x_j|² over i ≠ j is 2·tr Σ."""
    return float(np.sqrt(2 * np.trace(moments.covariance)))


# ---------------------------------------------------------------------------------------------- kernel distance


def polynomial_kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(x·y / d + 1)³ of all pairs (len(a), len(b)); cubic, so that the distance sees mean, covariance and skewness."""
    kernel = a @ b.T
    kernel /= a.shape[1]
    kernel += 1
    return kernel * kernel * kernel  # many times faster than a power


def kernel_distance(a: np.ndarray, b: np.ndarray, within_b: float | None = None) -> float:
    """Kernel Inception Distance (https://arxiv.org/abs/1801.01401): the squared maximum mean discrepancy of all pairs.

    Unbiased, so its expectation does not depend on n, and it can be negative.

    Args:
        a, b: features (m, d) and (n, d), m and n at least 2.
        within_b: `mean_kernel(b)`, where it is at hand.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    within_b = mean_kernel(b) if within_b is None else within_b
    return mean_kernel(a) + within_b - 2 * _pair_sum(a, b) / (len(a) * len(b))


def mean_kernel(x: np.ndarray) -> float:
    """Mean of the kernel over all pairs of different images of x (n, d), n ≥ 2."""
    if len(x) < 2:
        raise ValueError(f"{len(x)} images: at least 2 are needed")
    x = np.asarray(x, np.float64)
    diagonal = ((x * x).sum(axis=1) / x.shape[1] + 1) ** 3
    return float((_pair_sum(x, x) - diagonal.sum()) / (len(x) * (len(x) - 1)))


def kernel_distance_subsets(
    a: np.ndarray, b: np.ndarray, subsets: int = 100, size: int = 1000, random: Generator | None = None
) -> tuple[float, float]:
    """Mean and standard deviation (over the subsets) of `kernel_distance` on random subsets, as it is often published.

    Args:
        a, b: features (m, d) and (n, d).
        subsets, size: how many, and how many images of each side they hold; `size` shrinks to the smaller side.
        random: draws first the subset of a, then that of b, without replacement.
    """
    random = np.random.default_rng(0) if random is None else random
    size = min(size, len(a), len(b))
    values = []
    for _ in range(subsets):
        part_a, part_b = a[random.choice(len(a), size, replace=False)], b[random.choice(len(b), size, replace=False)]
        values.append(kernel_distance(part_a, part_b))
    return float(np.mean(values)), float(np.std(values))


def _pair_sum(a: np.ndarray, b: np.ndarray) -> float:
    return float(sum(polynomial_kernel(part, b).sum() for part in in_rows(a)))


def in_rows(x: np.ndarray) -> Iterator[np.ndarray]:
    """x (n, …) in parts of at most ROWS rows, so that a matrix of pairs need not be held as a whole."""
    return (x[first : first + ROWS] for first in range(0, len(x), ROWS))


# -------------------------------------------------------------------------------------- what a classifier says


def inception_score(logits: np.ndarray, splits: int = 10) -> tuple[float, float]:
    """Inception Score exp E_x KL(p(y|x) ‖ p(y)) (https://arxiv.org/abs/1606.03498): mean and std over the splits.

    Args:
        logits: (n, K) in an order that does not depend on the class: the splits are taken as they come.
        splits: number of nearly equal parts, at most n; the standard deviation is normalised by it.
    """
    logits = np.asarray(logits, np.float64)
    if not 1 <= splits <= len(logits):
        raise ValueError(f"splits={splits} must lie between 1 and the number of images, {len(logits)}")
    log_p = log_softmax(logits, axis=1)  # (n, K), finite where p underflows to 0
    scores = []
    for part in np.array_split(log_p, splits):
        p = np.exp(part)
        marginal = p.mean(axis=0)
        log_marginal = np.log(np.where(marginal > 0, marginal, 1.0))  # p = 0 wherever its mean is 0
        divergence = (p * (part.clip(min=-745.0) - log_marginal)).sum(axis=1)
        scores.append(np.exp(divergence.mean()))
    return float(np.mean(scores)), float(np.std(scores))


def confusion_matrix(logits: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """(K, K) numbers of images: row is the class asked for, column the class recognised."""
    counts = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(counts, (np.asarray(labels), np.asarray(logits).argmax(axis=1)), 1)
    return counts


def accuracy(confusion: np.ndarray) -> float:
    """Share of the images that the classifier puts into the class they were made for."""
    return float(np.trace(confusion) / confusion.sum())


def class_accuracies(confusion: np.ndarray) -> list[float | None]:
    """`accuracy` of each class alone; None for a class without images."""
    return [float(row[k] / row.sum()) if row.sum() else None for k, row in enumerate(confusion)]

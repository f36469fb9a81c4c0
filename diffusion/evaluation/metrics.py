"""Scores of generated images, as functions of feature arrays; NumPy in, floats out, everything in float64.

Fréchet distance (FID, Heusel et al. 2017, https://arxiv.org/abs/1706.08500): the distance between the Gaussians that
have the mean and covariance of two sets of features,

    FID = |μ_a − μ_b|² + tr(Σ_a + Σ_b − 2 (Σ_a^½ Σ_b Σ_a^½)^½)

Inception Score (Salimans et al. 2016, https://arxiv.org/abs/1606.03498): exp E_x KL(p(y|x) ‖ p(y)), from a
classifier's logits. Both depend on n and on the classifier, so they mean something only beside the same figure of
real images under the same protocol.
"""

import numpy as np
from scipy.linalg import eigh

Statistics = tuple[np.ndarray, np.ndarray]


def gaussian_statistics(features: np.ndarray) -> Statistics:
    """Mean (d,) and covariance (d, d; normalised by n − 1) of features (n, d), n ≥ 2."""
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features of shape {features.shape}: at least 2 rows are needed, one per image")
    mean = features.mean(axis=0)
    centred = features - mean
    return mean, centred.T @ centred / (len(features) - 1)


def frechet_distance(a: np.ndarray | Statistics, b: np.ndarray | Statistics) -> float:
    """FID between two sets of features (n, d), or their (mean, covariance); never negative.

    The trace of the matrix root is the sum of the roots of the eigenvalues of the symmetric Σ_a^½ Σ_b Σ_a^½, which
    needs no general matrix square root.
    """
    mean_a, cov_a = a if isinstance(a, tuple) else gaussian_statistics(a)
    mean_b, cov_b = b if isinstance(b, tuple) else gaussian_statistics(b)
    if mean_a.shape != mean_b.shape:
        raise ValueError(f"the two sets have {len(mean_a)} and {len(mean_b)} features")
    values, vectors = eigh(cov_a)
    root = vectors * np.sqrt(values.clip(min=0))  # root @ rootᵀ = Σ_a
    overlap = np.sqrt(eigh(root.T @ cov_b @ root, eigvals_only=True).clip(min=0)).sum()
    difference = mean_a - mean_b
    distance = difference @ difference + np.trace(cov_a) + np.trace(cov_b) - 2 * overlap
    return max(float(distance), 0.0)


def inception_score(logits: np.ndarray, splits: int = 10) -> tuple[float, float]:
    """Mean and standard deviation (over the splits, normalised by their number) of the Inception Score.

    Args:
        logits: (n, K) in an order that does not depend on the class: the splits are taken as they come.
        splits: number of nearly equal parts, at most n.
    """
    logits = np.asarray(logits, np.float64)
    if not 1 <= splits <= len(logits):
        raise ValueError(f"splits={splits} must lie between 1 and the number of images, {len(logits)}")
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))  # (n, K), finite where p underflows to 0
    scores = []
    for part in np.array_split(log_p, splits):
        p = np.exp(part)
        marginal = p.mean(axis=0)
        log_marginal = np.log(np.where(marginal > 0, marginal, 1.0))  # p = 0 wherever its mean is 0
        divergence = (p * (part.clip(min=-745.0) - log_marginal)).sum(axis=1)
        scores.append(np.exp(divergence.mean()))
    return float(np.mean(scores)), float(np.std(scores))


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Share of the images (n,) that the classifier puts into the class they were made for."""
    return float((np.asarray(logits).argmax(axis=1) == np.asarray(labels)).mean())


def class_accuracies(logits: np.ndarray, labels: np.ndarray, num_classes: int) -> list[float | None]:
    """`accuracy` of each class alone; None for a class without images."""
    hit = np.asarray(logits).argmax(axis=1) == np.asarray(labels)
    return [float(hit[labels == k].mean()) if (labels == k).any() else None for k in range(num_classes)]

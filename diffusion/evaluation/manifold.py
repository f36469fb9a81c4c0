"""Scores of the manifold of images as balls in feature space, each image's reaching to its k-th nearest neighbour.

As in `metrics.py`: feature arrays (n, d) in, floats out, everything in float64. A point counts as inside a ball when
it lies strictly nearer than the radius.
"""

import numpy as np

from diffusion.evaluation.metrics import in_rows


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(len(a), len(b)); what is within rounding of zero is zero, so that copies are recognised."""
    norms_a, norms_b = (a * a).sum(axis=1)[:, None], (b * b).sum(axis=1)
    distances = a @ b.T
    distances *= -2
    distances += norms_a
    distances += norms_b
    distances[distances < 1e-12 * (norms_a + norms_b.max())] = 0
    return distances


def neighbour_radii(x: np.ndarray, k: int) -> np.ndarray:
    """Squared distance (n,) of each image to its k-th nearest other one."""
    if not 1 <= k < len(x):
        raise ValueError(f"k={k} must lie between 1 and {len(x) - 1}, the number of other images")
    x = np.asarray(x, np.float64)
    return np.concatenate([np.partition(squared_distances(part, x), k, axis=1)[:, k] for part in in_rows(x)])


def precision_recall(
    real: np.ndarray, generated: np.ndarray, k: int = 3, real_radii: np.ndarray | None = None
) -> tuple[float, float]:
    """Improved precision and recall (https://arxiv.org/abs/1904.06991).

    Precision is the share of generated images that lie inside the k-nearest-neighbour ball of some real image, recall
    the share of real images inside the ball of some generated one.

    Args:
        real, generated: features (m, d), (n, d); both numbers count, so state them.
        k: which neighbour gives the radius.
        real_radii: `neighbour_radii(real, k)`, where it is at hand.
    """
    real, generated = np.asarray(real, np.float64), np.asarray(generated, np.float64)
    real_radii = neighbour_radii(real, k) if real_radii is None else real_radii
    radii, hits, covered = neighbour_radii(generated, k), 0, np.zeros(len(real), bool)
    for part, part_radii in zip(in_rows(generated), in_rows(radii), strict=True):
        distances = squared_distances(part, real)
        hits += int((distances < real_radii).any(axis=1).sum())
        covered |= (distances < part_radii[:, None]).any(axis=0)
    return hits / len(generated), float(covered.mean())


def density_coverage(
    real: np.ndarray, generated: np.ndarray, k: int = 5, real_radii: np.ndarray | None = None
) -> tuple[float, float]:
    """Density and coverage (https://arxiv.org/abs/2002.09797), which only use the balls of real images.

    Density is the mean number of real balls that hold a generated image, divided by k (1 for real images, and it can
    be larger); coverage the share of real balls that hold at least one. Arguments as in `precision_recall`.
    """
    real, generated = np.asarray(real, np.float64), np.asarray(generated, np.float64)
    real_radii = neighbour_radii(real, k) if real_radii is None else real_radii
    inside, covered = 0, np.zeros(len(real), bool)
    for part in in_rows(generated):
        within = squared_distances(part, real) < real_radii
        inside += int(within.sum())
        covered |= within.any(axis=0)
    return inside / (k * len(generated)), float(covered.mean())

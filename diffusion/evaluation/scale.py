"""The other end of the scale: what noise, black images and blurred real ones score.

A score says something only where these are far from real images. Extractors that have learned nothing, and sets of a
few images, put all of them at one place; a report that shows both ends says so by itself.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from diffusion.evaluation import manifold, metrics
from diffusion.evaluation.cache import Arrays, cache_key, remembered
from diffusion.evaluation.reference import BATCH, COVERAGE_K, PRECISION_K, FeatureSet, Reference, even_order
from diffusion.records.results import Scores
from diffusion.system.randomness import SPLIT, stream

MOST = 1000  # images of each kind
MARGIN = 5.0  # times the FID of real images, which noise should have at least
SCALARS = "fid kid inception_score inception_score_std precision recall density coverage accuracy".split()
SPLITS = 10  # of the Inception Score


def blurred(images: Tensor, generator: torch.Generator) -> Tensor:
    """uint8 images (n, C, H, W), each pixel the mean of a square around it: 3×3 in images of 28×28, 5×5 in 32×32 …"""
    side = 2 * max(1, images.shape[-1] // 16) + 1
    mean = avg_pool2d(images.float(), side, 1, side // 2, count_include_pad=False)
    return mean.round().to(torch.uint8)


def noise(images: Tensor, generator: torch.Generator) -> Tensor:
    """Grey levels without any order, in the shape of the images."""
    return torch.randint(0, 256, images.shape, generator=generator, dtype=torch.uint8)


def black(images: Tensor, generator: torch.Generator) -> Tensor:
    """Nothing, in the shape of the images."""
    return torch.zeros_like(images)


ENDS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {"blurred": blurred, "noise": noise, "black": black}


def scalars(reference: Reference, found: FeatureSet) -> Scores:
    """The scores that are one number each, of extracted images; None where one cannot be had."""
    kept = found.features
    scores: Scores = dict.fromkeys(SCALARS)
    scores["fid"] = metrics.frechet_distance(found.moments, reference.moments)
    scores["kid"] = metrics.kernel_distance(kept, reference.kept, reference.mean_kernel)
    if found.logits is not None:
        both = metrics.inception_score(found.logits, min(SPLITS, found.n))
        scores["inception_score"], scores["inception_score_std"] = both
    if min(len(kept), len(reference.kept)) > COVERAGE_K:
        real, radii = reference.kept, reference.radii
        scores["precision"], scores["recall"] = manifold.precision_recall(real, kept, PRECISION_K, radii[PRECISION_K])
        scores["density"], scores["coverage"] = manifold.density_coverage(real, kept, COVERAGE_K, radii[COVERAGE_K])
    matrix = confusion(reference, found)
    scores["accuracy"] = None if matrix is None else metrics.accuracy(matrix)
    return scores


def confusion(reference: Reference, found: FeatureSet) -> np.ndarray | None:
    """The confusion matrix, where labels and the logits of the data's own classes are known."""
    if found.logits is None or found.labels is None or not reference.features.recognises_classes:
        return None
    return metrics.confusion_matrix(found.logits, found.labels, len(reference.data.class_names))


def scale(reference: Reference) -> Scores:
    """What real test images and each of `ENDS` score, all at the same n; computed once for data and extractor.

    Read once for each reference, which keeps it.

    Returns:
        "n", and by the name "real" or one of `ENDS` its `scalars`.
    """
    if reference.scale is not None:
        return reference.scale
    data = reference.data
    n = min(MOST, len(data.test))
    key = cache_key(reference.key, data.fingerprint("test"), n, list(ENDS), SCALARS, PRECISION_K, COVERAGE_K, SPLITS)
    path = reference.features.cache / f"scale_{key}.npz"
    what = f"scores of noise, of black images and of blurred ones on the scale of {data.name}"
    stored = remembered(path, what, lambda: _measure(reference, n))
    reference.scale = {"n": n} | {
        kind: {name: None if np.isnan(value) else float(value) for name, value in zip(SCALARS, values, strict=True)}
        for kind, values in stored.items()
    }
    return reference.scale


def _measure(reference: Reference, n: int) -> Arrays:
    sets = {"real": reference.real(n)} | {name: _altered(reference, n, alter) for name, alter in ENDS.items()}
    return {
        name: np.array([np.nan if value is None else value for value in scalars(reference, found).values()])
        for name, found in sets.items()
    }


def _altered(reference: Reference, n: int, alter: Callable[[Tensor, torch.Generator], Tensor]) -> FeatureSet:
    """The features of n test images, every class in its proportion, after each was altered."""
    data, generator, parts = reference.data, stream(0, SPLIT, n, 1), []
    for indices in even_order(data.test.labels, len(data.test))[:n].split(BATCH):
        images, kinds = data.test.select(indices)
        parts.append((*reference.features(alter(images.cpu(), generator)), kinds))
    order = torch.randperm(n, generator=generator)  # so that each split of the Inception Score holds all classes
    columns = ([each for each in column if each is not None] for column in zip(*parts, strict=True))
    values, logits, labels = (torch.cat(column).cpu()[order].numpy() if column else None for column in columns)
    assert values is not None
    return FeatureSet.of(values, logits, labels, len(data.class_names))


def narrowness(found: Scores, by: str = "these features") -> str | None:
    """What to say where noise is not worse than real images by a wide margin; None where it is.

    Args:
        found: as of `scale`.
        by: whose scores they are, in words.
    """
    real, far, n = found["real"]["fid"], found["noise"]["fid"], found["n"]
    if far >= MARGIN * real and far > 0:
        return None
    relation = f"only {far / real:.2g} times that" if far > real else "no more than that"
    return f"By {by}, uniform noise has the FID {far:.3f}, {relation} of real test images, {real:.3f} (n = {n:,} each)"


def blindness(found: Scores) -> str | None:
    """What to say where blurred images score better than real ones, as on small sets; None where they do not."""
    real, soft, n = found["real"]["fid"], found["blurred"]["fid"], found["n"]
    if soft >= real:
        return None
    return (
        f"Blurred test images have the FID {soft:.3f}, better than that of real ones, {real:.3f} (n = {n:,} each): "
        "a low FID does not tell sharp from blurred here, so look at the pictures."
    )


def in_short(found: Scores) -> str:
    """The scale by FID, in a line. `found` as of `scale`."""
    values = ", ".join(f"{name} {found[name]['fid']:.3f}" for name in ("real", *ENDS))
    blind = "; blurred images score better than real ones" if blindness(found) else ""
    return f"The scale, by FID of {found['n']:,} images each: {values}{blind}."

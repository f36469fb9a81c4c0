"""The extractor that suits the data."""

import logging

import torch

from diffusion.data.images import ImageData
from diffusion.evaluation.features.base import Features
from diffusion.evaluation.features.classifier import ClassifierFeatures
from diffusion.evaluation.features.pca import PCAFeatures
from diffusion.evaluation.reference import reference_of
from diffusion.evaluation.scale import narrowness, scale
from diffusion.system.errors import UserError

log = logging.getLogger("diffusion")


def automatic(
    data: ImageData, device: torch.device, cache: str = "data/cache", weights: str | None = None, epochs: int = 16
) -> Features:
    """`ClassifierFeatures` for data with labels, `PCAFeatures` for data without; arguments as theirs.

    A classifier that was trained for these data and cannot tell their classes apart, or real images from noise, ranks
    nothing: `PCAFeatures` do, with a `doubt` that says so.
    """
    if data.class_names:
        found = ClassifierFeatures(data, device, cache, weights, epochs)
        if weights is not None or found.packaged is not None:
            return found
        wrong = found.weakness or narrowness(scale(reference_of(found)), f"the classifier of data={data.name}")
        if wrong is None:
            return found
        features = PCAFeatures(data, device, cache)
        features.doubt = f"{wrong}: images are ranked by features=pca, without Inception Score and accuracy"
        log.warning("%s.", features.doubt)
        return features
    if weights is not None:
        raise UserError(f"features.weights={weights}: data={data.name} has no labels, so no classifier can score it.")
    log.info(
        "data=%s has no labels: it is scored by features=pca; Inception Score and accuracy, which need a classifier, "
        "are left out.",
        data.name,
    )
    return PCAFeatures(data, device, cache)

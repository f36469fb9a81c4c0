"""Features of a classifier trained on the very data: the default, as it looks at what matters there."""

import logging
from pathlib import Path
from typing import Any

import torch
from scipy.stats import binom
from torch import Tensor

from diffusion.data.images import ASSETS, ImageData, encode
from diffusion.evaluation.cache import cache_key
from diffusion.evaluation.classifier import forward_frozen, load_classifier, recipe, save_classifier, train_classifier
from diffusion.evaluation.features.base import Features
from diffusion.system.errors import UserError, brief

log = logging.getLogger("diffusion")


class ClassifierFeatures(Features):
    """The 192 averaged features and the logits of a scoring classifier.

    Args:
        weights: a scorer file; None takes the packaged one, or trains one.
        epochs: of that training.

    Attributes:
        weakness: what to say of a classifier that has not learned to tell the classes apart; None of one that has. Its
            class probabilities mean nothing, so there are none.
    """

    recognises_classes = True

    def __init__(
        self,
        data: ImageData,
        device: torch.device,
        cache: str = "data/cache",
        weights: str | None = None,
        epochs: int = 16,
    ) -> None:
        if not data.class_names:
            raise UserError(f"data={data.name} has no labels, so no classifier can score its images: use features=pca.")
        super().__init__(data, device, cache)
        if weights is not None:
            path = Path(weights)
        elif data.packaged_scorer is not None:
            path = ASSETS / f"{data.packaged_scorer}_scorer.safetensors"
            self.packaged = data.packaged_scorer
        else:
            key = cache_key(self.preprocessing, data.fingerprint(), data.class_names, recipe(), epochs)
            path = self.cache / f"scorer_{key}.safetensors"
        if weights is None and not path.exists():
            log.info("Training a scoring classifier for data=%s, once; it will be kept as %s.", data.name, path)
            self.classifier, self.record = train_classifier(data, device, epochs=epochs, log=log_epoch)
            try:
                save_classifier(path, self.classifier, self.record)
            except Exception as error:  # safetensors raises a kind of its own for a folder that cannot be written
                log.warning("The scoring classifier could not be kept as %s (%s).", path, brief(error))
        else:
            self.classifier, self.record = load_classifier(path, device)
        if self.record["class_names"] != data.class_names or self.record["channels"] != data.channels:
            raise UserError(
                f"features.weights={path} was made for {self.record['data']}, whose classes or channels are not "
                f"those of data={data.name}."
            )
        self.weakness = weakness(self.record, data)
        if self.weakness is not None:
            self.recognises_classes = False
            self.doubt = f"{self.weakness}, so these scores mean little; Inception Score and accuracy are left out"
        self.fingerprint = self.classifier.fingerprint()
        self.name = f"classifier trained on {self.record['data']}, weights {self.fingerprint}"

    def extract(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        features, logits = forward_frozen(self.classifier, encode(images.to(self.device)))
        return features, None if self.weakness else logits


def weakness(record: dict[str, Any], data: ImageData) -> str | None:
    """What to say where a classifier is not clearly better than always naming the largest class; None where it is.

    By the exact binomial test, one-sided at 1 %: who always names the largest class is right with the probability of
    its share, which is at least that of chance.

    Args:
        record: of its training, with the number of held-out images and the accuracy on them.
        data: labelled, what it was trained on or like it.
    """
    n, accuracy = record.get("held_out_images"), record.get("held_out_accuracy")
    if n is None or accuracy is None or data.train.labels is None:
        return None
    right = round(accuracy * n)
    share = float(data.train.labels.bincount().max() / len(data.train))
    if binom.sf(right - 1, n, share) <= 0.01:
        return None
    return (
        f"The classifier of data={data.name} recognises {right} of {n} held-out images, which is not clearly more than "
        f"the {100 * share:.0f} % that the largest class makes up"
    )


def log_epoch(epoch: int, scores: dict[str, float]) -> None:
    """One line per epoch of a scorer's training."""
    log.info("scorer, epoch %d: %s", epoch, ", ".join(f"{name} {value:.4f}" for name, value in scores.items()))

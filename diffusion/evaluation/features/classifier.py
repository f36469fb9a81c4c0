"""Features of a classifier trained on the very data: the default, as it looks at what matters there."""

import logging
from pathlib import Path

import torch
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
        self.fingerprint = self.classifier.fingerprint()
        self.name = f"classifier trained on {self.record['data']}, weights {self.fingerprint}"

    def extract(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        return forward_frozen(self.classifier, encode(images.to(self.device)))


def log_epoch(epoch: int, scores: dict[str, float]) -> None:
    """One line per epoch of a scorer's training."""
    log.info("scorer, epoch %d: %s", epoch, ", ".join(f"{name} {value:.4f}" for name, value in scores.items()))

"""What images are compared by: the features and class probabilities of a classifier that was trained on real data.

For Fashion-MNIST the classifier and the statistics of the 60,000 training images are part of the package, so that
everyone's numbers compare. For other data the classifier is trained on first use, and it and the statistics are
cached under a hash of weights, data and preprocessing.
"""

import hashlib
import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffusion.data import ASSETS, ImageData, ImageFiles, Images
from diffusion.errors import UserError
from diffusion.evaluation.classifier import extract, load_classifier, save_classifier, train_classifier
from diffusion.evaluation.metrics import Statistics, gaussian_statistics
from diffusion.files import replacing

log = logging.getLogger("diffusion")
PREPROCESSING = "native size; uint8 / 127.5 - 1"
BATCH = 500


class ClassifierFeatures:
    """The 192 averaged features and the logits of a scoring classifier, with the reference statistics.

    Args:
        data: its training split is the reference, its test split the floor.
        device: where the classifier runs.
        weights: a scorer file; None takes the packaged one, or trains one.
        cache: folder for what is computed once.
        epochs: of training, where no scorer is at hand.
    """

    def __init__(
        self,
        data: ImageData,
        device: torch.device,
        weights: str | None = None,
        cache: str = "data/cache",
        epochs: int = 16,
    ) -> None:
        if not data.class_names:
            raise UserError(f"data={data.name} has no labels, so no classifier can score its images.")
        if min(len(data.train), len(data.test)) < 2:
            raise UserError(
                f"data={data.name} holds {len(data.train)} + {len(data.test)} images: scores need at least 2 of "
                "each; add images, raise data.test_fraction, or set score.n=0."
            )
        self.data, self.cache = data, Path(cache)
        if weights is not None:
            path = Path(weights)
        elif data.packaged_scorer is not None:
            path = ASSETS / f"{data.packaged_scorer}_scorer.safetensors"
        else:
            path = self.cache / f"scorer_{cache_key(data.fingerprint(), epochs)}.safetensors"
            if not path.exists():
                log.info("Training a scoring classifier for data=%s, once; it will be kept as %s.", data.name, path)
                save_classifier(path, *train_classifier(data, device, epochs=epochs, log=log_epoch))
        self.classifier, self.record = load_classifier(path, device)
        if self.record["class_names"] != data.class_names or self.record["channels"] != data.channels:
            raise UserError(
                f"features.weights={path} was made for {self.record['data']}, whose classes or channels are not "
                f"those of data={data.name}."
            )
        self.fingerprint = self.classifier.fingerprint()
        self.reference, self.reference_description = self._reference()
        self._real: tuple[np.ndarray, np.ndarray] | None = None

    def extract(self, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Features (n, 192) and logits (n, K), float64, of uint8 images (n, C, H, W) of the data's size."""
        expected = (self.data.channels, self.data.image_size, self.data.image_size)
        if tuple(images.shape[1:]) != expected:
            raise UserError(
                f"The images are {tuple(images.shape[1:])} (channels, height, width), but data={self.data.name} is "
                f"{expected}: score them against their own data."
            )
        features, logits = extract(self.classifier, images.split(BATCH))
        return features.numpy(), logits.numpy()

    def real(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Features, logits and labels of the test split, in an order whose beginnings hold all classes evenly."""
        labels = self.data.test.labels
        assert labels is not None
        labels = labels.cpu()
        if self._real is None:
            self._real = self._extract_split(self.data.test)
        rank = torch.zeros(len(labels), dtype=torch.long)  # of each image among those of its class
        for k in range(len(self.data.class_names)):
            rank[labels == k] = torch.arange(int((labels == k).sum()))
        order = torch.argsort(rank, stable=True).numpy()
        return self._real[0][order], self._real[1][order], labels.numpy()[order]

    def _extract_split(self, split: Images | ImageFiles) -> tuple[np.ndarray, np.ndarray]:
        parts = (split.select(indices)[0] for indices in torch.arange(len(split)).split(BATCH))
        features, logits = extract(self.classifier, parts)
        return features.numpy(), logits.numpy()

    def _reference(self) -> tuple[Statistics, str]:
        """Statistics of the training split: packaged, cached, or computed now."""
        packaged = ASSETS / f"{self.data.packaged_scorer}_reference.npz"
        if self.data.packaged_scorer is not None and packaged.exists():
            found = load_reference(packaged)
            if found[2] == self.fingerprint:
                return found[0], found[1]
        path = self.cache / f"reference_{cache_key(self.fingerprint, self.data.fingerprint())}.npz"
        if path.exists():
            found = load_reference(path)
            return found[0], found[1]
        description = f"{len(self.data.train)} training images of {self.data.name}"
        log.info("Computing the reference statistics of %s, once; they will be kept as %s.", description, path)
        statistics = gaussian_statistics(self._extract_split(self.data.train)[0])
        save_reference(path, statistics, description, self.fingerprint)
        return statistics, description


def cache_key(*parts: object) -> str:
    """A hash of what a cached file depends on: data, weights, settings, and always the preprocessing."""
    return hashlib.sha256(repr((PREPROCESSING, *parts)).encode()).hexdigest()[:16]


def log_epoch(epoch: int, scores: dict[str, float]) -> None:
    """One line per epoch of a scorer's training."""
    log.info("scorer, epoch %d: %s", epoch, ", ".join(f"{name} {value:.4f}" for name, value in scores.items()))


def save_reference(path: Path, statistics: Statistics, description: str, fingerprint: str) -> None:
    """Write mean and covariance with what they are of and the hash of the weights that made them."""
    mean, covariance = statistics
    with replacing(path) as temporary:
        np.savez_compressed(
            temporary, mean=mean, covariance=covariance, description=description, fingerprint=fingerprint
        )


def load_reference(path: Path) -> tuple[Statistics, str, str]:
    """Statistics, description and fingerprint from `save_reference`."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return (file["mean"], file["covariance"]), str(file["description"]), str(file["fingerprint"])
    except Exception as error:  # NumPy raises many kinds for a damaged archive
        raise UserError(f"The cached statistics {path} cannot be read: delete that file.") from error

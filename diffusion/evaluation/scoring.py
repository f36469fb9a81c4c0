"""All scores of a set of images, each beside the same score of real test images at the same n."""

import logging

import numpy as np
import torch
from torch import Tensor

from diffusion.data.images import ImageData, ImageFiles, Images
from diffusion.evaluation import metrics
from diffusion.evaluation.cache import cache_key, remembered
from diffusion.evaluation.classifier import recipe, train_classifier
from diffusion.evaluation.features.base import Features
from diffusion.evaluation.neighbours import ROWS, PixelNeighbours, memorisation
from diffusion.evaluation.protocol import notes, protocol
from diffusion.evaluation.reference import (
    KEPT,
    FeatureSet,
    block_count,
    even_order,
    extract_set,
    reference_of,
)
from diffusion.evaluation.scale import SPLITS, confusion, scalars, scale
from diffusion.records.results import Scores
from diffusion.system import ranks
from diffusion.system.errors import UserError
from diffusion.system.progress import progress_bar
from diffusion.system.randomness import SPLIT, stream

log = logging.getLogger("diffusion")
SUBSETS, SUBSET_SIZE = 100, 1000


class Scorer:
    """Scores sets of images against the training split of the features' data.

    Attributes:
        scale: what real, blurred and black test images and noise score.
        nearest: of the images scored last, distances and indices (n, 2) of their nearest training images.
    """

    def __init__(self, features: Features) -> None:
        self.features, self.data = features, features.data
        self.reference = reference_of(features)
        self.scale = scale(self.reference)  # now, so that no score in the midst of training takes longer for it
        train = self.data.train
        self.neighbours = PixelNeighbours(train, features.device) if isinstance(train, Images) else None
        self.nearest: tuple[Tensor, Tensor] | None = None
        self._real: dict[int, Scores] = {}

    def score(self, images: Images | ImageFiles, source: str, progress: bool = False) -> Scores:
        """All scores of a set of images.

        Args:
            images: at least 2, of the data's own size; their labels, if any, are the classes they were made for.
            source: where they come from, for the protocol.
            progress: show bars.

        Returns:
            "n", every score by its name (None where it could not be had), the same of real test images under "real",
            those of noise and of other poor images under "scale", how they were measured under "protocol", and
            sentences on what was left out or means little under "notes". Of several processes only the first has them,
            the others get {}.
        """
        n = len(images)
        if n < 2:
            raise UserError(f"n={n}: scores need at least 2 images; a useful FID needs more than there are features.")
        order = torch.randperm(n, generator=stream(0, SPLIT, n))
        found = extract_set(self.features, images, order, "scoring" if progress else "", share=True)
        if not ranks.first():
            return {}
        scores = {"n": n, **self.measure(found), **self._memory(images, progress)}
        scores |= {"class_names": self.data.class_names, "real": self.real(n), "scale": self.scale}
        subsets, splits = (SUBSETS, self._subset_size(found)), min(SPLITS, n)
        scores["notes"] = notes(self.reference, found, scores)
        scores["protocol"] = protocol(source, self.reference, found, scores, subsets, splits)
        return scores

    def real(self, n: int) -> Scores:
        """The scores of min(n, all) test images, against the same reference."""
        if n not in self._real:
            found = self.reference.real(n)
            scores = {"n": found.n, "whole_test_set": found.n < n, **self.measure(found)}
            if self.neighbours is not None:
                distances = self._test_distances()
                scores["memorisation"] = memorisation(distances, distances)
            self._real[n] = scores
        return self._real[n]

    def measure(self, found: FeatureSet) -> Scores:
        """The scores of extracted images."""
        reference, kept = self.reference, found.features
        scores = scalars(reference, found)
        scores["fid_infinite"] = scores["fid_fit"] = None
        if len(found.blocks) > 1:
            fit = metrics.frechet_distance_infinite(found.blocks, reference.moments)
            scores["fid_infinite"] = fit.infinite
            scores["fid_fit"] = {**fit._asdict(), "residual": fit.residual}
        if block_count(*kept.shape) > 1:
            scores["spread"] = self._spread(found)
        subsets = metrics.kernel_distance_subsets(kept, reference.kept, SUBSETS, self._subset_size(found))
        scores["kid_subsets"], scores["kid_subsets_std"] = subsets
        scores |= dict.fromkeys(("class_accuracy", "confusion", "class_fid", "diversity", "class_diversity"))
        matrix = confusion(reference, found)
        if matrix is not None:
            scores |= {"class_accuracy": metrics.class_accuracies(matrix), "confusion": matrix.tolist()}
        if found.classes is not None:
            scores["class_diversity"] = [metrics.diversity(part) if part.n > 1 else None for part in found.classes]
            known = [value for value in scores["class_diversity"] if value is not None]
            scores["diversity"] = float(np.mean(known)) if known else None
            if reference.classes is not None:
                pairs = zip(found.classes, reference.classes, strict=True)
                scores["class_fid"] = [
                    metrics.frechet_distance(made, real) if min(made.n, real.n) > len(real.mean) else None
                    for made, real in pairs
                ]
        return scores

    def _subset_size(self, found: FeatureSet) -> int:
        """Of KID's subsets: at most half of what there is, since their spread should say something."""
        return max(2, min(SUBSET_SIZE, len(found.features) // 2, len(self.reference.kept) // 2))

    def _spread(self, found: FeatureSet) -> Scores:
        """Mean and standard deviation (n − 1) over disjoint subsets of the images whose features were kept."""
        count = block_count(*found.features.shape)
        size, several = len(found.features) // count, []
        for i in range(count):
            part = slice(i * size, (i + 1) * size)
            logits, labels = (None if x is None else x[part] for x in (found.logits, found.labels))
            one = FeatureSet.of(found.features[part], logits, labels, len(self.data.class_names))
            several.append(scalars(self.reference, one))
        result: Scores = {"subsets": count, "n": size}
        for name in several[0]:
            values = [scores[name] for scores in several]
            if name != "inception_score_std" and None not in values:
                result[name] = [float(np.mean(values)), float(np.std(values, ddof=1))]
        return result

    # ------------------------------------------------------------------------------------------- memorisation

    def _memory(self, images: Images | ImageFiles, progress: bool) -> Scores:
        """Copies of training images, and images that are there more than once."""
        seen: set[int] = set()
        found = []
        with progress_bar(len(images), "looking for copies", "images", disable=not progress) as bar:
            for indices in torch.arange(len(images)).split(ROWS):
                part = images.select(indices)[0]
                seen.update(hash(image.tobytes()) for image in part.numpy())
                if self.neighbours is not None:
                    found.append(self.neighbours.nearest(part))
                bar.update(len(part))
        repeated = 1 - len(seen) / len(images)
        if not found:
            return {"memorisation": None, "repeated": repeated}
        distances, indices = (torch.cat([part[i] for part in found]) for i in (0, 1))
        self.nearest = distances, indices
        return {"memorisation": memorisation(distances.numpy(), self._test_distances()), "repeated": repeated}

    def _test_distances(self) -> np.ndarray:
        """Distances (m, 2) from test images to their two nearest training images."""
        data, neighbours = self.data, self.neighbours
        assert neighbours is not None

        def make() -> dict[str, np.ndarray]:
            order = even_order(data.test.labels, len(data.test))[:KEPT]
            parts = [neighbours.nearest(data.test.select(part)[0])[0] for part in order.split(ROWS)]
            return {"distances": torch.cat(parts).numpy()}

        path = self.features.cache / f"neighbours_{cache_key(data.fingerprint(), data.fingerprint('test'))}.npz"
        return remembered(path, f"nearest training images of the test images of {data.name}", make)["distances"]

    # -------------------------------------------------------------------------------- training on the samples

    def classification_accuracy(self, images: Images | ImageFiles) -> Scores:
        """Classification accuracy score (https://arxiv.org/abs/1905.10887).

        A classifier is trained on the generated images alone and tested on the real test images; beside it, one that
        was trained in the same way on as many real training images.
        """
        data, n = self.data, len(images)
        if images.labels is None or not data.class_names:
            raise UserError("classification_accuracy=true needs images with labels: these have none.")

        def test_accuracy(split: Images | ImageFiles, what: str) -> float:
            log.info("Training a classifier on %d %s images.", len(split), what)
            one = ImageData(data.name, split, data.test, data.class_names)
            return float(train_classifier(one, self.features.device)[1]["test_accuracy"])  # type: ignore[arg-type]

        real = data.train.subset(even_order(data.train.labels, len(data.train))[:n])
        key = cache_key(data.fingerprint(), data.fingerprint("test"), recipe(), n)
        path = self.features.cache / f"trained_on_real_{key}.npz"
        found = remembered(
            path, "accuracy after training on real images", lambda: {"accuracy": np.array(test_accuracy(real, "real"))}
        )
        return {"generated": test_accuracy(images, "generated"), "real": float(found["accuracy"]), "real_n": len(real)}

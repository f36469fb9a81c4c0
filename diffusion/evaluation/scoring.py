"""All scores of a set of images, each beside the same score of real test images at the same n."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion.data.images import ImageFiles, Images
from diffusion.evaluation.cache import cache_key, remembered
from diffusion.evaluation.features.base import Features
from diffusion.evaluation.metrics import (
    Moments,
    accuracy,
    class_accuracies,
    confusion_matrix,
    density_coverage,
    diversity,
    frechet_distance,
    frechet_distance_infinite,
    inception_score,
    kernel_distance,
    kernel_distance_subsets,
    precision_recall,
)
from diffusion.evaluation.neighbours import ROWS, PixelNeighbours, memorisation
from diffusion.evaluation.reference import (
    COVERAGE_K,
    KEPT,
    PRECISION_K,
    FeatureSet,
    Reference,
    block_count,
    even_order,
    extract_set,
)
from diffusion.system import ranks
from diffusion.system.errors import UserError
from diffusion.system.progress import progress_bar
from diffusion.system.randomness import SPLIT, stream

log = logging.getLogger("diffusion")
Scores = dict[str, Any]
SPLITS = 10
SUBSETS, SUBSET_SIZE = 100, 1000


class Scorer:
    """Scores sets of images against the training split of the features' data.

    Args:
        features: the extractor; its data are the reference.

    Attributes:
        nearest: of the images scored last, distances and indices (n, 2) of their nearest training images.
    """

    def __init__(self, features: Features) -> None:
        self.features, self.data = features, features.data
        self.reference = Reference(features)
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
            how they were measured under "protocol", and sentences on what was left out under "notes". Of several
            processes only the first has them, the others get {}.
        """
        n = len(images)
        if n < 2:
            raise UserError(f"n={n}: scores need at least 2 images; a useful FID needs more than there are features.")
        order = torch.randperm(n, generator=stream(0, SPLIT, n))
        found = extract_set(self.features, images, order, "scoring" if progress else "", share=True)
        if not ranks.first():
            return {}
        scores = {"n": n, **self.measure(found), **self._memory(images, progress)}
        real = self.real(n)
        return {
            **scores,
            "class_names": self.data.class_names,
            "real": real,
            "notes": self._notes(found, scores, real),
            "protocol": self._protocol(source, found, real),
        }

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
        scores = self._scalars(found)
        scores["fid_infinite"] = scores["fid_fit"] = None
        if len(found.blocks) > 1:
            fit = frechet_distance_infinite(found.blocks, reference.moments)
            scores["fid_infinite"] = fit.infinite
            scores["fid_fit"] = {**fit._asdict(), "residual": fit.residual}
        if block_count(*kept.shape) > 1:
            scores["spread"] = self._spread(found)
        subsets = kernel_distance_subsets(kept, reference.kept, SUBSETS, self._subset_size(found))
        scores["kid_subsets"], scores["kid_subsets_std"] = subsets
        for name in ("class_accuracy", "confusion", "class_fid", "diversity", "class_diversity"):
            scores[name] = None
        confusion = self._confusion(found)
        if confusion is not None:
            scores |= {"class_accuracy": class_accuracies(confusion), "confusion": confusion.tolist()}
        if found.classes is not None:
            scores["class_diversity"] = [diversity(part) if part.n > 1 else None for part in found.classes]
            known = [value for value in scores["class_diversity"] if value is not None]
            scores["diversity"] = float(np.mean(known)) if known else None
            if reference.classes is not None:
                pairs = zip(found.classes, reference.classes, strict=True)
                scores["class_fid"] = [_class_distance(made, real) for made, real in pairs]
        return scores

    def _subset_size(self, found: FeatureSet) -> int:
        """Of KID's subsets: at most half of what there is, since their spread should say something."""
        return max(2, min(SUBSET_SIZE, len(found.features) // 2, len(self.reference.kept) // 2))

    def _scalars(self, found: FeatureSet) -> Scores:
        """The scores that also have a spread over disjoint subsets."""
        reference, kept = self.reference, found.features
        scores: Scores = {"fid": frechet_distance(found.moments, reference.moments)}
        scores["kid"] = kernel_distance(kept, reference.kept, reference.mean_kernel)
        for name in ("inception_score", "inception_score_std", "precision", "recall", "density", "coverage"):
            scores[name] = None
        if found.logits is not None:
            mean, std = inception_score(found.logits, min(SPLITS, found.n))
            scores |= {"inception_score": mean, "inception_score_std": std}
        if min(len(kept), len(reference.kept)) > COVERAGE_K:
            precision, recall = precision_recall(reference.kept, kept, PRECISION_K, reference.radii[PRECISION_K])
            density, coverage = density_coverage(reference.kept, kept, COVERAGE_K, reference.radii[COVERAGE_K])
            scores |= {"precision": precision, "recall": recall, "density": density, "coverage": coverage}
        confusion = self._confusion(found)
        scores["accuracy"] = None if confusion is None else accuracy(confusion)
        return scores

    def _confusion(self, found: FeatureSet) -> np.ndarray | None:
        """The confusion matrix, where labels and the logits of the data's own classes are known."""
        if found.logits is None or found.labels is None or not self.features.recognises_classes:
            return None
        return confusion_matrix(found.logits, found.labels, len(self.data.class_names))

    def _spread(self, found: FeatureSet) -> Scores:
        """Mean and standard deviation (n − 1) over disjoint subsets of the images whose features were kept."""
        count = block_count(*found.features.shape)
        size, several = len(found.features) // count, []
        for i in range(count):
            part = slice(i * size, (i + 1) * size)
            logits, labels = (None if x is None else x[part] for x in (found.logits, found.labels))
            one = FeatureSet.of(found.features[part], logits, labels, len(self.data.class_names))
            several.append(self._scalars(one))
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
        from diffusion.data.images import ImageData
        from diffusion.evaluation.classifier import recipe, train_classifier

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

    # ------------------------------------------------------------------------------------------- what is said

    def _notes(self, found: FeatureSet, scores: Scores, real: Scores) -> list[str]:
        """What was left out, or is not to be trusted, and why; one sentence each."""
        d, n, notes = len(self.reference.moments.mean), scores["n"], []
        if n <= d:
            notes.append(f"n = {n} is not larger than the {d} features, so the FID is unreliable.")
        if real["whole_test_set"]:
            notes.append(
                f"There are only {real['n']} real test images, so the real column is not at the same n; † stands where "
                "a ratio would mislead."
            )
        if scores["fid_infinite"] is None:
            notes.append(f"FID∞ and the spread over subsets need more than {2 * d} images, and are left out.")
        if scores["inception_score"] is None:
            notes.append("Inception Score and accuracy need class probabilities, which these features have not.")
        elif found.labels is None:
            notes.append("These images have no labels, so the scores per class and the accuracy are left out.")
        elif not self.features.recognises_classes:
            notes.append("These features come from a network with other classes, so the accuracy is left out.")
        if found.labels is not None and n >= 20 * len(self.data.class_names):
            real_labels = np.empty(0, int) if self.data.train.labels is None else self.data.train.labels.cpu().numpy()
            share, real_share = (
                np.bincount(labels, minlength=len(self.data.class_names)) / max(1, len(labels))
                for labels in (found.labels, real_labels)
            )
            if np.abs(share - real_share).sum() > 0.1:
                notes.append(
                    "The classes of these images stand in other proportions than those of the training images, which "
                    "worsens the scores that compare whole sets."
                )
        if scores["class_fid"] and all(value is None for value in scores["class_fid"]):
            notes.append(f"FID per class needs more than {d} images of a class, and is left out.")
        if scores["memorisation"] is None:
            notes.append("The training images do not fit in memory, so no copies of them were looked for.")
        if scores["precision"] is None:
            notes.append(f"Precision, recall, density and coverage need more than {COVERAGE_K} images.")
        return notes

    def _protocol(self, source: str, found: FeatureSet, real: Scores) -> Scores:
        """How the scores were measured."""
        kept, data = len(found.features), self.data
        return {
            "images": source,
            "n": found.n,
            "data": f"{data.name}, {data.fingerprint()} (train), {data.fingerprint('test')} (test)",
            "reference": self.reference.description,
            "floor": f"{real['n']} test images of {data.name}, against the same reference",
            "scorer": self.features.name,
            "features": len(self.reference.moments.mean),
            "preprocessing": self.features.preprocessing,
            "quantisation": "uint8; samples of a model are rounded, then clamped",
            "neighbours": (
                f"precision and recall with k = {PRECISION_K}, density and coverage with k = {COVERAGE_K}, KID with "
                f"all pairs: {kept} images against {self.reference.kept_description}"
            ),
            "kid_subsets": f"{SUBSETS} of {self._subset_size(found)} images",
            "inception_score_splits": min(SPLITS, found.n),
            "copies": (
                "not looked for"
                if self.neighbours is None
                else f"all images against the {len(data.train)} training images of {data.name}, in pixels"
            ),
        }


def _class_distance(made: Moments, real: Moments) -> float | None:
    return frechet_distance(made, real) if min(made.n, real.n) > len(real.mean) else None


def average(values: Sequence[Any]) -> Any:
    """Scores of several seeds → their mean, entry by entry; None where one is missing, texts from the first."""
    first = values[0]
    if any(value is None for value in values):
        return None
    if isinstance(first, dict):
        return {key: average([value[key] for value in values]) for key in first}
    if isinstance(first, list):
        return [average(entries) for entries in zip(*values, strict=False)]
    if isinstance(first, bool | str):
        return first
    mean = float(np.mean(values))
    return int(mean) if isinstance(first, int) and mean.is_integer() else mean


def over_seeds(several: list[Scores]) -> Scores:
    """Scores of independent samples of equal n as one: means, with the standard deviations (n − 1) under "seeds"."""
    if len(several) == 1:
        return several[0]
    result = average(several)
    result["protocol"]["seeds"] = f"means over {len(several)} samples with different seeds"
    result["seeds"] = {"count": len(several)}
    flat = [flattened(scores) for scores in several]
    for name in flat[0]:
        values = [scores.get(name) for scores in flat]
        if None not in values:
            result["seeds"][name] = float(np.std(values, ddof=1))  # type: ignore[arg-type]
    return result


def flattened(scores: Scores) -> dict[str, float]:
    """The scores that are one number each, with dotted names for those one level down."""
    inner = {
        f"{group}.{name}": value
        for group in ("memorisation", "classification_accuracy")
        for name, value in (scores.get(group) or {}).items()
    }
    return {name: value for name, value in {**scores, **inner}.items() if isinstance(value, float)}

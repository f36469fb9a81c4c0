"""What generated images are compared with: the training split, and the test split as the score of real images."""

import numpy as np
import torch
from torch import Tensor

from diffusion.data.images import ASSETS, ImageFiles, Images
from diffusion.evaluation.cache import Arrays, cache_key, remembered
from diffusion.evaluation.features.base import Features
from diffusion.evaluation.manifold import neighbour_radii
from diffusion.evaluation.metrics import Moments, mean_kernel
from diffusion.records.results import Scores
from diffusion.system import ranks
from diffusion.system.progress import progress_bar
from diffusion.system.randomness import SPLIT, stream
from diffusion.system.untrusted import read_arrays

BATCH = 500
KEPT = 10_000  # images whose features are kept, for the scores that compare all pairs
CLASS_FEATURES = 512  # more features than this have no moments per class: 10 matrices of 2048² would be too large
PRECISION_K, COVERAGE_K = 3, 5
MOMENTS = ("n", "mean", "scatter")  # what is kept of `Moments`


class FeatureSet:
    """What the scores need to know of a set of images in random order, summed up batch by batch.

    Args:
        n: number of images that will be added.
        d: number of features.
        kinds: number of classes, 0 for none.

    Attributes:
        blocks: moments of equally many images each, all disjoint; their number is a power of two.
        moments: of all images.
        classes: moments per class, or None.
        features: (min(n, KEPT), d), of the first images.
        logits: (n, K) or None.
        labels: (n,) or None.
    """

    def __init__(self, n: int, d: int, kinds: int) -> None:
        self.n, self.seen, count = n, 0, block_count(n, d)
        self.block_size = n // count
        self.blocks = [Moments.empty(d) for _ in range(count)]
        self.moments = Moments.empty(d)
        self.classes = [Moments.empty(d) for _ in range(kinds)] if kinds > 0 and d <= CLASS_FEATURES else None
        self.features = np.empty((0, d), np.float32)
        self.logits: np.ndarray | None = None
        self.labels: np.ndarray | None = None

    @classmethod
    def of(cls, features: np.ndarray, logits: np.ndarray | None, labels: np.ndarray | None, kinds: int) -> "FeatureSet":
        """Of features (n, d) that are at hand."""
        whole = cls(len(features), features.shape[1], kinds)
        whole.add(features, logits, labels)
        return whole

    def add(self, features: np.ndarray, logits: np.ndarray | None, labels: np.ndarray | None) -> None:
        """The next images: features (b, d), logits (b, K) or None, labels (b,) or None."""
        end = self.seen + len(features)
        for i, block in enumerate(self.blocks):  # the few images after the last whole block count in `moments` alone
            first, last = max(i * self.block_size, self.seen), min((i + 1) * self.block_size, end)
            if first < last:
                self.blocks[i] = block + Moments.of(features[first - self.seen : last - self.seen])
        self.moments += Moments.of(features)
        self.features = _joined(self.features, features[: KEPT - len(self.features)])
        self.logits = None if logits is None else _joined(self.logits, logits)
        self.labels = None if labels is None else _joined(self.labels, labels)
        if labels is None:
            self.classes = None
        elif self.classes is not None:
            for k in np.unique(labels).tolist():
                self.classes[k] += Moments.of(features[labels == k])
        self.seen = end


def block_count(n: int, d: int) -> int:
    """Number of disjoint blocks for the extrapolation and the spread: at most 8, each of more than d images."""
    return next((blocks for blocks in (8, 4, 2) if n // blocks > d), 1)


def extract_set(
    features: Features, split: Images | ImageFiles, order: Tensor, description: str = "", share: bool = False
) -> FeatureSet:
    """Read, extract and sum up images batch by batch.

    Args:
        split: images of the data's size, with labels or without.
        order: indices (n,) into them, in random order.
        description: of a progress bar, or "" for none.
        share: let each process extract a part; all of them must then call this.
    """
    if share and ranks.size() > 1:
        return _extract_together(features, split, order)
    found: FeatureSet | None = None
    with progress_bar(len(order), description, "images", disable=not description) as bar:
        for indices in order.split(BATCH):
            images, labels = split.select(indices)
            values, logits = features(images)
            if found is None:
                found = FeatureSet(len(order), values.shape[1], len(features.data.class_names))
            found.add(*(None if x is None else x.cpu().numpy() for x in (values, logits, labels)))  # type: ignore
            bar.update(len(indices))
    assert found is not None
    return found


def _extract_together(features: Features, split: Images | ImageFiles, order: Tensor) -> FeatureSet:
    """`extract_set` by all processes, summed up in the order in which one process would."""
    n, mine = len(order), ranks.share(len(order))
    parts = []
    for indices in order[mine.start : mine.stop].split(BATCH):
        images, kinds = split.select(indices)
        parts.append((*features(images), None if kinds is None else kinds.cpu()))
    columns = zip(*parts, strict=True)
    values, logits, labels = (
        None if column[0] is None else ranks.gather(torch.cat(column), n).numpy() for column in columns
    )
    found = FeatureSet(n, values.shape[1], len(features.data.class_names))  # type: ignore[union-attr]
    for first in range(0, n, BATCH):
        rows = slice(first, first + BATCH)
        found.add(*(None if column is None else column[rows] for column in (values, logits, labels)))  # type: ignore
    return found


def _joined(first: np.ndarray | None, second: np.ndarray) -> np.ndarray:
    return second if first is None else np.concatenate([first, second])


def reference_of(features: Features) -> "Reference":
    """The reference of an extractor, which is read or computed once for each."""
    if features.reference is None:
        features.reference = Reference(features)
    return features.reference


class Reference:
    """The statistics of the real images of the features' data, packaged, cached, or computed now.

    Attributes:
        scale: what real and poor images score against it, once `diffusion.evaluation.scale` was asked.
    """

    scale: Scores | None = None

    def __init__(self, features: Features) -> None:
        self.features, self.data = features, features.data
        self.key = cache_key(features.fingerprint, features.preprocessing, self.data.fingerprint(), KEPT)
        packaged = self._packaged()
        path = features.cache / f"{'training' if packaged is None else 'kept'}_{self.key}.npz"
        what = f"features of the training images of {self.data.name}"
        stored = remembered(path, what, lambda: self._extract_training(packaged is None))
        moments = packaged or stored
        self.description = str(moments["description"])
        self.moments = Moments(int(moments["n"]), moments["mean"], moments["scatter"])
        self.classes = None
        if "class_n" in moments:
            columns = zip(*(moments[f"class_{name}"] for name in MOMENTS), strict=True)
            self.classes = [Moments(int(n), mean, scatter.astype(np.float64)) for n, mean, scatter in columns]
        self.kept, self.mean_kernel = stored["features"].astype(np.float64), float(stored["mean_kernel"])
        self.radii = {k: stored[f"radii_{k}"] for k in (PRECISION_K, COVERAGE_K) if f"radii_{k}" in stored}
        self.kept_description = f"{len(self.kept)} training images of {self.data.name}"

    def _packaged(self) -> Arrays | None:
        """The statistics in the package, if they were made with these very weights."""
        path = ASSETS / f"{self.features.packaged}_reference.npz"
        if self.features.packaged is None or not path.exists():
            return None
        found = read_arrays(path)
        return found if str(found["fingerprint"]) == self.features.fingerprint else None

    def _extract_training(self, whole: bool) -> Arrays:
        train = self.data.train
        order = torch.randperm(len(train), generator=stream(0, SPLIT, len(train)))
        found = extract_set(self.features, train, order if whole else order[:KEPT], "features of real images")
        arrays: Arrays = {"features": found.features, "mean_kernel": np.array(mean_kernel(found.features))}
        for k in (PRECISION_K, COVERAGE_K):
            if k < len(found.features):
                arrays[f"radii_{k}"] = neighbour_radii(found.features, k)
        return {**arrays, **(_statistics(self.features, found) if whole else {})}

    def real(self, n: int) -> FeatureSet:
        """n test images (at most as many as there are, and KEPT) in random order, every class in its proportion."""
        data = self.data
        path = self.features.cache / f"test_{self.key}_{data.fingerprint('test')}.npz"
        n = min(n, len(data.test), KEPT)
        stored = remembered(path, f"features of the test images of {data.name}", self._extract_test)
        order = torch.randperm(n, generator=stream(0, SPLIT, n)).numpy()
        logits, labels = (stored[key][:n][order] if key in stored else None for key in ("logits", "labels"))
        return FeatureSet.of(stored["features"][:n][order], logits, labels, len(data.class_names))

    def _extract_test(self) -> Arrays:
        order = even_order(self.data.test.labels, len(self.data.test))[:KEPT]
        found = extract_set(self.features, self.data.test, order)
        arrays = {"features": found.features, "logits": found.logits, "labels": found.labels}
        return {name: array for name, array in arrays.items() if array is not None}


def even_order(labels: Tensor | None, n: int) -> Tensor:
    """An order (n,) of images whose beginnings hold every class in its proportion."""
    if labels is None:
        return torch.arange(n)
    labels = labels.cpu()
    place = torch.zeros(n, dtype=torch.float64)  # of each image among those of its class, from 0 to 1
    for k in labels.unique().tolist():
        count = int((labels == k).sum())
        place[labels == k] = (torch.arange(count) + 0.5).double() / count
    return torch.argsort(place, stable=True)


def training_arrays(features: Features) -> Arrays:
    """The statistics of the whole training split, as they come with the package."""
    return _statistics(features, extract_set(features, features.data.train, torch.arange(len(features.data.train))))


def _statistics(features: Features, found: FeatureSet) -> Arrays:
    """Moments of all images and of each class, with what they are of and the hash of the weights."""
    arrays: Arrays = {
        "description": np.array(f"{found.n} training images of {features.data.name}"),
        "fingerprint": np.array(features.fingerprint),
        **{name: np.asarray(getattr(found.moments, name)) for name in MOMENTS},
    }
    if found.classes is not None:
        arrays |= {f"class_{name}": np.stack([getattr(part, name) for part in found.classes]) for name in MOMENTS}
        arrays["class_scatter"] = arrays["class_scatter"].astype(np.float32)  # by far the largest
    return arrays

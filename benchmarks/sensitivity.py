"""What each score says of images whose fault is known: writes the table in docs/evaluation.md.

python benchmarks/sensitivity.py           about ten minutes on two cores, with the full Fashion-MNIST
"""

import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from common import ROOT, fill
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from diffusion.data.datasets import fashion_mnist
from diffusion.data.images import ImageData, Images
from diffusion.evaluation.document import markdown_table
from diffusion.evaluation.features.classifier import ClassifierFeatures
from diffusion.evaluation.features.pca import PCAFeatures
from diffusion.evaluation.metrics import frechet_distance
from diffusion.evaluation.reference import Reference, even_order, extract_set
from diffusion.evaluation.report import value_of
from diffusion.evaluation.scoring import Scorer

PAGE = ROOT / "docs" / "evaluation.md"
COLUMNS = {
    "FID": ("fid", 3),
    "FID∞": ("fid_infinite", 3),
    "KID × 1000": ("kid", 2),
    "IS": ("inception_score", 2),
    "precision": ("precision", 3),
    "recall": ("recall", 3),
    "density": ("density", 2),
    "coverage": ("coverage", 3),
    "accuracy": ("accuracy", 3),
    "diversity": ("diversity", 2),
    "nearer than real": ("memorisation.nearer_than_real", 3),
    "copies": ("memorisation.copies", 3),
    "repeated": ("repeated", 3),
}


def faults(data: ImageData) -> Iterator[tuple[str, Images]]:
    """Sets of 10,000 images (9,000 for the missing class), each with one fault."""
    order = even_order(data.test.labels, len(data.test))
    images, labels = data.test.select(order)
    assert labels is not None
    yield "real test set", Images(images, labels)
    for sigma in (0.02, 0.05, 0.1):
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
        yield f"noise, σ = {sigma}", Images(as_bytes(images / 255 + sigma * noise), labels)
    yield "shifted by 1 pixel", Images(torch.roll(pad(images, (1, 1, 1, 1)), 1, 3)[..., 1:-1, 1:-1], labels)
    yield "blurred, 3×3 mean", Images(as_bytes(avg_pool2d(images / 255, 3, 1, 1)), labels)
    yield "mirrored", Images(images.flip(3), labels)
    bag = data.class_names.index("Bag")
    yield "no bags (n = 9,000)", Images(images[labels != bag], labels[labels != bag])
    yield "100 test images, 100 times each", Images(images[:100].repeat(100, 1, 1, 1), labels[:100].repeat(100))
    copies, their_labels = data.train.select(even_order(data.train.labels, len(data.train))[:10_000])
    yield "10,000 training images", Images(copies, their_labels)
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    normal = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    yield (
        "labels at random",
        Images(images, labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]),
    )
    yield "uniform noise", Images(as_bytes(noise), labels)
    yield "Gaussian noise, mean and std of the data", Images(as_bytes(moments_of(images, normal)), labels)
    yield "black", Images(torch.zeros_like(images), labels)


def moments_of(images: Tensor, normal: Tensor) -> Tensor:
    """Normal noise with the mean and standard deviation that all pixels of the images have together."""
    pixels = images / 255
    return pixels.mean() + pixels.std() * normal


def as_bytes(pixels: Tensor) -> Tensor:
    """[0, 1] → uint8, rounded and clamped."""
    return (255 * pixels).round().clamp(0, 255).to(torch.uint8)


def entry(scores: dict[str, Any], key: str, digits: int) -> str:
    """A score, in bold where it is further from that of real images than chance would put it."""
    value, real = value_of(scores, key), value_of(scores["real"], key)
    if value is None:
        return "–"
    scale = 1000 if key == "kid" else 1
    text = f"{scale * value:.{digits}f}"
    spread = scores["real"]["spread"].get(key if key != "fid_infinite" else "fid")
    if spread is not None:  # of eight subsets; five standard errors
        strange = abs(value - real) > 5 * spread[1] / np.sqrt(scores["real"]["spread"]["subsets"])
    elif key == "diversity":
        strange = abs(value / real - 1) > 0.05
    else:  # shares of copies: 0.01 is what real images have at the most
        strange = value > 0.02
    return f"**{text}**" if strange else text


def main() -> None:
    data, device = fashion_mnist("data/fashion_mnist"), torch.device("cpu")
    scorer, pixels = Scorer(ClassifierFeatures(data, device)), Reference(PCAFeatures(data, device))
    rows = []
    for name, images in faults(data):
        start = time.perf_counter()
        scores = scorer.score(images, name)
        found = extract_set(pixels.features, images, torch.arange(len(images)))
        cells = [entry(scores, key, digits) for key, digits in COLUMNS.values()]
        rows.append([name, *cells, f"{frechet_distance(found.moments, pixels.moments):.3f}"])
        print(f"{' | '.join(rows[-1])}   ({time.perf_counter() - start:.0f} s)", file=sys.stderr, flush=True)
    table = markdown_table(["images", *COLUMNS, "FID, features=pca"], rows)
    if not fill(PAGE, "sensitivity", "benchmarks/sensitivity.py", table):
        raise SystemExit(f"{PAGE} has no place for the table.")


if __name__ == "__main__":
    main()

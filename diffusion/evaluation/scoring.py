"""All scores of a set of images, each beside the same score of real test images at the same n."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion.data import ImageData, find_images, read_image
from diffusion.errors import UserError
from diffusion.evaluation.features import PREPROCESSING, ClassifierFeatures
from diffusion.evaluation.metrics import accuracy, class_accuracies, frechet_distance, inception_score
from diffusion.randomness import SPLIT, stream

SPLITS = 10


def score_images(images: Tensor, labels: Tensor | None, features: ClassifierFeatures, source: str) -> dict[str, Any]:
    """Score images against the training split of the features' data.

    Args:
        images: uint8 (n, C, H, W), n ≥ 2, of the data's own size.
        labels: the classes they were made for (n,), or None (then there is no accuracy).
        features: the scorer.
        source: where the images come from, for the protocol.

    Returns:
        {"n", "fid", "inception_score", "inception_score_std", "accuracy", "class_accuracy"} of the images, the same
        of real test images under "real", and how they were measured under "protocol".
    """
    if len(images) < 2:
        raise UserError(f"n={len(images)}: scores need at least 2 images; a useful FID needs more than 192.")
    names = features.data.class_names
    scores = _scores(*features.extract(images), None if labels is None else labels.numpy(), features)
    real_features, real_logits, real_labels = features.real()
    n = min(len(images), len(real_labels))
    real = _scores(real_features[:n], real_logits[:n], real_labels[:n], features)
    real["whole_test_set"] = n < len(images)
    protocol = {
        "images": source,
        "reference": features.reference_description,
        "floor": f"{n} test images of {features.data.name}",
        "scorer": f"classifier trained on {features.record['data']}, weights {features.fingerprint}",
        "features": len(features.reference[0]),
        "preprocessing": PREPROCESSING,
        "quantisation": "uint8, rounded",
        "inception_score_splits": min(SPLITS, len(images)),
    }
    return {**scores, "class_names": names, "real": real, "protocol": protocol}


def _scores(
    values: np.ndarray, logits: np.ndarray, labels: np.ndarray | None, features: ClassifierFeatures
) -> dict[str, Any]:
    n = len(values)
    shuffled = logits[torch.randperm(n, generator=stream(0, SPLIT, n)).numpy()]
    mean, std = inception_score(shuffled, min(SPLITS, n))
    known = labels is not None
    return {
        "n": n,
        "fid": frechet_distance(values, features.reference),
        "inception_score": mean,
        "inception_score_std": std,
        "accuracy": accuracy(logits, labels) if known else None,  # type: ignore[arg-type]
        "class_accuracy": (
            class_accuracies(logits, labels, len(features.data.class_names)) if known else None  # type: ignore[arg-type]
        ),
    }


def load_samples(where: str, data: ImageData) -> tuple[Tensor, Tensor | None]:
    """Images uint8 (n, C, H, W) and labels (n,) or None from an .npz file or a folder of images.

    An .npz holds `arr_0`, uint8 (N, H, W, C) or (N, H, W), and perhaps `arr_1`, labels (N,). In a folder, subfolders
    that are all named like classes of the data give the labels.
    """
    path = Path(where)
    if path.is_dir():
        paths = find_images(path)
        folders = [file.relative_to(path).parts[0] for file in paths]
        known = all(name in data.class_names for name in folders)
        singles = [read_image(file, None, data.channels) for file in paths]
        if len({image.shape for image in singles}) > 1:
            raise UserError(f"samples={where}: the images differ in size; they must all be of the data's own size.")
        labels = torch.tensor([data.class_names.index(name) for name in folders]) if known else None
        return torch.stack(singles), labels
    if not path.exists():
        raise UserError(f"samples={where}: no such file or folder; give an .npz or a folder of images.")
    try:
        with np.load(path, allow_pickle=False) as file:
            pixels = file["arr_0"]
            numbers = file["arr_1"] if "arr_1" in file.files else None
    except Exception as error:  # NumPy raises many kinds: no archive, no arr_0, pickled objects
        raise UserError(f"samples={where} is no .npz with an array arr_0 of uint8 images (N, H, W, C).") from error
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.dtype != np.uint8 or pixels.ndim != 4:
        raise UserError(f"samples={where}: arr_0 is {pixels.dtype} {pixels.shape}; it must be uint8 (N, H, W, C).")
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    if numbers is None:
        return images, None
    if numbers.shape != (len(pixels),) or not np.issubdtype(numbers.dtype, np.integer):
        raise UserError(f"samples={where}: arr_1 is {numbers.dtype} {numbers.shape}; it must be N whole numbers.")
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(data.class_names):
        raise UserError(f"samples={where}: arr_1 holds labels outside 0 … {len(data.class_names) - 1}.")
    return images, torch.from_numpy(numbers.astype(np.int64))

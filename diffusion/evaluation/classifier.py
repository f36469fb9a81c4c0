"""The scoring classifier: a small CNN whose averaged features and class probabilities give FID, IS and accuracy.

It is trained on real images only, without flips (shoes face one way, and a scorer that was trained with flips cannot
see mirrored samples), and the epoch is selected by the loss of a held-out part of the training set, never of the test
set. Where images are few, `pace` and `hold_out` see to it that it learns something all the same.
"""

import copy
import hashlib
import inspect
import json
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion.data.images import ImageData, batches, encode
from diffusion.evaluation.reference import even_order
from diffusion.system.errors import UserError
from diffusion.system.files import replacing
from diffusion.system.randomness import NETWORK, SPLIT, stream
from diffusion.system.untrusted import read_json


class Classifier(nn.Module):
    """Four 3×3 convolutions (32, then stride 2 to 64, 128, 192), each with BatchNorm and GELU; mean; linear head.

    Dropout after all but the first keeps 313,000 weights from learning 55,000 images by heart; it makes the features
    blind to nothing, as augmentation by flips or shifts would.

    Args:
        stride: of the first convolution, whose kernel is then as large as it must be to see every pixel.
    """

    widths = (32, 64, 128, 192)
    dropout = 0.2

    def __init__(self, channels: int, num_classes: int, stride: int = 1) -> None:
        super().__init__()
        if not 1 <= stride <= 32:
            raise ValueError(f"stride={stride} must be from 1 to 32")
        kernel = max(3, 2 * stride - 1)
        layers: list[nn.Module] = []
        for i, width in enumerate(self.widths):
            layers += [nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2, bias=False)]
            layers += [nn.BatchNorm2d(width), nn.GELU(), *([nn.Dropout(self.dropout)] if i else [])]
            channels, kernel, stride = width, 3, 2
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W) in [−1, 1] → features (B, 192), logits (B, K)."""
        features = self.body(x).mean(dim=(2, 3))
        return features, self.head(features)

    def fingerprint(self) -> str:
        """A hash of the weights: part of every cache key and of every report."""
        return state_hash(self)


def first_stride(size: Sequence[int]) -> int:
    """The first stride for images of (height, width): from 64×64 pixels on it works at 32 to 63, and costs no more."""
    return max(1, math.isqrt(math.prod(size)) // 32)


def state_hash(network: nn.Module) -> str:
    """A hash of all weights and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def recipe() -> str:
    """A hash of how a `Classifier` is built and trained when nothing is said: part of the keys of what is cached."""
    parts = (Classifier, first_stride, train_classifier, hold_out, even_order, pace, _epochs, loss_and_accuracy)
    code = "".join(inspect.getsource(part) for part in parts)
    return hashlib.sha256(code.encode()).hexdigest()[:16]


@torch.no_grad()
def forward_frozen(network: nn.Module, x: Tensor) -> Any:
    """network(x) in evaluation mode, so that the batch an image comes in does not matter; the mode is put back."""
    was_training = network.training
    network.eval()
    try:
        return network(x)
    finally:
        network.train(was_training)


def train_classifier(
    data: ImageData,
    device: torch.device,
    epochs: int = 16,
    batch_size: int = 128,
    learning_rate: float = 2e-3,
    weight_decay: float = 0.05,
    held_out: int = 5000,
    seed: int = 0,
    log: Callable[[int, dict[str, float]], None] = lambda epoch, scores: None,
) -> tuple[Classifier, dict[str, object]]:
    """Train a `Classifier` on the training split and keep the epoch with the least loss on its held-out part.

    Args:
        data: labelled images in memory.
        device: where to train.
        epochs, batch_size, learning_rate, weight_decay: AdamW with a cosine decay to zero; `pace` makes batches smaller
            and epochs longer where images are few.
        held_out: training images that only select the epoch; at most a fifth of them are taken.
        log: called after each epoch with {"train/loss", "held_out/loss", "held_out/accuracy"}.

    Returns:
        the classifier, in evaluation mode, and a record of how it was made (for the file's metadata).
    """
    if not data.class_names or data.train.labels is None:
        raise UserError(f"A scoring classifier needs labels, and data={data.name} has none.")
    if epochs < 1 or batch_size < 2 or held_out < 1:
        raise ValueError(
            f"epochs={epochs} and held_out={held_out} must be at least 1, and batch_size={batch_size} at least 2"
        )
    held, fitted = hold_out(data.train.labels, held_out, seed)
    held_images, held_labels = data.train.select(held)
    fit = data.train.subset(fitted)
    batch_size, steps = pace(len(fit), batch_size)
    stride = first_stride(data.image_size)
    with torch.random.fork_rng():  # weights and dropout draw from the global generator, which is left as it was
        torch.manual_seed(stream(seed, NETWORK).initial_seed())
        classifier = Classifier(data.channels, len(data.class_names), stride)
        classifier.to(device).to(memory_format=torch.channels_last)
        best: tuple[float, int, Classifier] = (math.inf, 0, classifier)
        drawn = batches(fit, batch_size, seed, 0, device)
        for epoch, loss in _epochs(classifier, drawn, epochs, steps, learning_rate, weight_decay):
            held_loss, accuracy = loss_and_accuracy(classifier, held_images, held_labels)
            if held_loss < best[0]:
                best = (held_loss, epoch, copy.deepcopy(classifier))
            log(epoch, {"train/loss": loss, "held_out/loss": held_loss, "held_out/accuracy": accuracy})
    classifier = best[2].eval()
    test_images, test_labels = data.test.select(torch.arange(min(len(data.test), 10_000)))
    record: dict[str, object] = {
        "data": data.name,
        "data_fingerprint": data.fingerprint(),
        "channels": data.channels,
        "stride": stride,
        "class_names": data.class_names,
        "epochs": epochs,
        "batch_size": batch_size,
        "steps": epochs * steps,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "seed": seed,
        "flips": False,
        "selected_epoch": best[1],
        "held_out_images": len(held),
        "held_out_loss": best[0] if math.isfinite(best[0]) else None,
        "held_out_accuracy": classifier_accuracy(classifier, held_images, held_labels),
        "test_accuracy": classifier_accuracy(classifier, test_images, test_labels),
        "fingerprint": classifier.fingerprint(),
    }
    return classifier, record


def hold_out(labels: Tensor, most: int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the training images that only select the epoch, and of those that are fitted.

    Where a class has few images, both parts hold every class in its proportion, and at least one image of each class is
    fitted; where all have many, chance does as well.

    Args:
        labels: of all training images (n,).
        most: how many to hold out; at most a fifth of the images are.
    """
    labels, n = labels.cpu(), len(labels)
    order = torch.randperm(n, generator=stream(seed, SPLIT))
    counts = labels.unique(return_counts=True)[1]
    if int(counts.min()) < 1000:
        order = order[even_order(labels[order], n)]
        kept = torch.zeros(n, dtype=torch.bool)
        for k in labels.unique():
            kept[torch.where(labels[order] == k)[0][-1]] = True
        order, most = torch.cat([order[~kept], order[kept]]), min(most, n - len(counts))
    count = max(1, min(most, n // 5))
    return order[:count], order[count:]


def pace(n: int, batch_size: int) -> tuple[int, int]:
    """Size of a batch and steps of an epoch for n fitted images.

    An epoch has at least 20 steps, however few the images: batches become smaller for it, down to 16 images, and then
    epochs longer. With 2,560 images and more it is one round through them in batches of 128.
    """
    batch_size = max(2, min(batch_size, n, max(16, n // 20)))
    return batch_size, max(20, n // batch_size)


def _epochs(
    classifier: Classifier,
    drawn: Iterator[tuple[Tensor, Tensor | None]],
    epochs: int,
    steps: int,
    learning_rate: float,
    weight_decay: float,
) -> Iterator[tuple[int, float]]:
    """Train on uint8 images (B, C, H, W) with labels (B,), and say (epoch, mean loss) after each epoch of `steps`."""
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=learning_rate, weight_decay=weight_decay)
    decay = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, epochs * steps, pct_start=0.1)
    for epoch in range(1, epochs + 1):
        total: Tensor | float = 0.0
        for images, labels in islice(drawn, steps):
            assert labels is not None
            loss = F.cross_entropy(classifier(encode(images))[1], labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            decay.step()
            total += loss.detach()
        yield epoch, float(total) / steps


def loss_and_accuracy(classifier: Classifier, images: Tensor, labels: Tensor | None) -> tuple[float, float]:
    """Mean cross-entropy, in nats, of uint8 images (n, C, H, W) with labels (n,), and the share put into its class."""
    assert labels is not None
    device, labels = next(classifier.parameters()).device, labels.cpu()
    logits = torch.cat([forward_frozen(classifier, encode(part.to(device)))[1].cpu() for part in images.split(500)])
    return float(F.cross_entropy(logits.double(), labels)), float((logits.argmax(dim=1) == labels).double().mean())


def classifier_accuracy(classifier: Classifier, images: Tensor, labels: Tensor | None) -> float:
    """Share of uint8 images (n, C, H, W) that are put into their class (n,)."""
    return loss_and_accuracy(classifier, images, labels)[1]


def save_classifier(path: Path, classifier: Classifier, record: dict[str, object]) -> None:
    """Write the weights as safetensors, with the record as JSON in the metadata."""
    state = {name: value.detach().cpu().contiguous() for name, value in classifier.state_dict().items()}
    with replacing(path) as temporary:
        save_file(state, temporary, metadata={"record": json.dumps(record)})
        temporary.chmod(0o644)  # safetensors writes files that only their owner can read


def load_classifier(path: Path, device: torch.device) -> tuple[Classifier, dict[str, object]]:
    """Read what `save_classifier` wrote; `UserError` when the file is missing or is something else."""
    try:
        with safe_open(path, framework="pt") as file:
            record = read_json(file.metadata()["record"])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        with torch.random.fork_rng(devices=[]):  # the first weights are drawn, and nobody else's draws may shift
            classifier = Classifier(record["channels"], len(record["class_names"]), record.get("stride", 1))
        classifier.load_state_dict(state)
    except FileNotFoundError as error:
        raise UserError(
            f"The scorer {path} does not exist: give a file that train.py --config-name classifier wrote."
        ) from error
    except Exception as error:  # safetensors, JSON and shape errors alike: this is no scorer
        raise UserError(f"{path} is not a scorer written by train.py --config-name classifier.") from error
    classifier.to(device).to(memory_format=torch.channels_last)
    return classifier.eval(), record

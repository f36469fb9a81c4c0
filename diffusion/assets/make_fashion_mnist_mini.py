"""Rebuild `fashion_mnist_mini.npz` from the full Fashion-MNIST.

    python -m diffusion.assets.make_fashion_mnist_mini [folder of the four .gz files]

Takes the same number of images of every class, 600 for training and 100 for testing, chosen by a fixed permutation,
in the order in which the full set holds them.
"""

import sys

import numpy as np
import torch

from diffusion.data.datasets import fashion_mnist
from diffusion.data.images import ASSETS, Images
from diffusion.system.randomness import SPLIT, stream


def balanced(split: Images, per_class: int) -> dict[str, np.ndarray]:
    """`per_class` images of every class of a split: {"images": uint8 (n, 28, 28), "labels": uint8 (n,)}."""
    assert split.labels is not None
    order = torch.randperm(len(split), generator=stream(0, SPLIT, len(split)))
    chosen = torch.cat([order[split.labels[order] == label][:per_class] for label in range(10)]).sort().values
    return {"images": split.images[chosen, 0].numpy(), "labels": split.labels[chosen].numpy().astype(np.uint8)}


def main(root: str = "data/fashion_mnist") -> None:
    data = fashion_mnist(root)
    assert isinstance(data.train, Images) and isinstance(data.test, Images)
    train, test = balanced(data.train, 600), balanced(data.test, 100)
    arrays = {f"train_{k}": v for k, v in train.items()} | {f"test_{k}": v for k, v in test.items()}
    target = ASSETS / "fashion_mnist_mini.npz"
    np.savez_compressed(target, **arrays)  # type: ignore[arg-type]
    print(
        f"{target}: {len(arrays['train_labels'])} + {len(arrays['test_labels'])} images, {target.stat().st_size} bytes"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The data sets that have a name: found on this machine, downloaded, or part of this package.

Each takes `padding`, black pixels around the images that the network sees, and `flip` and `shift`, how training images
are varied: see `diffusion.data.augmentation`.
"""

import gzip
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffusion.data.augmentation import Augmentation
from diffusion.data.images import ASSETS, ImageData, Images
from diffusion.data.shapes import Padding
from diffusion.system.array_files import read_arrays
from diffusion.system.errors import UserError, brief
from diffusion.system.untrusted import MEMORY_LIMIT

FASHION_CLASSES = "T-shirt Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag Ankle-boot".split()
CIFAR_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()
SYSTEM_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # Debian's package dataset-fashion-mnist
HIRAGANA = "o ki su tsu na ha ma ya re wo".split()


def fashion_mnist(root: str, padding: Padding = 0, flip: bool = False, shift: int = 0) -> ImageData:
    """Fashion-MNIST (Xiao et al. 2017): 60,000 + 10,000 grey 28×28 images of ten kinds of garment.

    Looked for in `root`, then in the folder of Debian's package dataset-fashion-mnist, then downloaded into `root`.
    """
    train, test = _idx_data("fashion_mnist", "FashionMNIST", Path(root), [SYSTEM_FASHION_MNIST])
    return ImageData(
        "fashion_mnist", train, test, FASHION_CLASSES, padding, "fashion_mnist", augmentation=Augmentation(flip, shift)
    )


def fashion_mnist_here(root: str = "data/fashion_mnist") -> ImageData:
    """Fashion-MNIST if it lies on this machine, else the part of it that comes with the package."""
    found, _ = _idx_folder("FashionMNIST", Path(root), [SYSTEM_FASHION_MNIST])
    return fashion_mnist_mini() if found is None else fashion_mnist(root)


def fashion_mnist_mini(padding: Padding = 0, flip: bool = False, shift: int = 0) -> ImageData:
    """A class-balanced subset of Fashion-MNIST that is part of this package: 6,000 + 1,000 images."""
    arrays = {key: torch.from_numpy(array) for key, array in read_arrays(ASSETS / "fashion_mnist_mini.npz").items()}
    train = Images(arrays["train_images"].unsqueeze(1), arrays["train_labels"].long())
    test = Images(arrays["test_images"].unsqueeze(1), arrays["test_labels"].long())
    return ImageData(
        "fashion_mnist_mini",
        train,
        test,
        FASHION_CLASSES,
        padding,
        "fashion_mnist",
        augmentation=Augmentation(flip, shift),
    )


def mnist(root: str, padding: Padding = 0, flip: bool = False, shift: int = 0) -> ImageData:
    """MNIST (LeCun et al. 1998): 60,000 + 10,000 grey 28×28 digits, from `root` or downloaded into it."""
    train, test = _idx_data("mnist", "MNIST", Path(root), [])
    return ImageData("mnist", train, test, [str(i) for i in range(10)], padding, augmentation=Augmentation(flip, shift))


def kmnist(root: str, padding: Padding = 0, flip: bool = False, shift: int = 0) -> ImageData:
    """Kuzushiji-MNIST (Clanuwat et al. 2018): 60,000 + 10,000 grey 28×28 cursive Hiragana."""
    train, test = _idx_data("kmnist", "KMNIST", Path(root), [])
    return ImageData("kmnist", train, test, HIRAGANA, padding, augmentation=Augmentation(flip, shift))


def cifar10(root: str, padding: Padding = 0, flip: bool = False, shift: int = 0) -> ImageData:
    """CIFAR-10 (Krizhevsky 2009): 50,000 + 10,000 colour 32×32 photographs, from `root` or downloaded into it."""
    from torchvision.datasets import CIFAR10

    splits = []
    for train in (True, False):
        try:
            loaded = CIFAR10(root, train=train, download=True)
        except Exception as error:  # torchvision raises many kinds: no network, damaged archive, full disk
            raise UserError(
                f"data=cifar10: not found whole in data.root={root} and the download failed ({brief(error)}); "
                "put cifar-10-python.tar.gz there, or choose data=fashion_mnist_mini, which needs no download."
            ) from error
        images = torch.from_numpy(loaded.data).permute(0, 3, 1, 2).contiguous()
        splits.append(Images(images, torch.tensor(loaded.targets)))
    return ImageData("cifar10", splits[0], splits[1], CIFAR_CLASSES, padding, augmentation=Augmentation(flip, shift))


IDX_FILES = (  # images and labels of training, and of testing
    ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
)


def _idx_folder(name: str, root: Path, system: list[Path]) -> tuple[Path | None, list[Path]]:
    """The first of `root`, torchvision's folder in it and the system's that holds any of the four files; and all."""
    folders, wanted = [root, root / name / "raw", *system], [file for pair in IDX_FILES for file in pair]
    return next((f for f in folders if any((f / file).exists() for file in wanted)), None), folders


def _idx_data(option: str, name: str, root: Path, system: list[Path]) -> tuple[Images, Images]:
    """The first of `root`, torchvision's folder in it, the system's folders, or a download that has the files."""
    folder, folders = _idx_folder(name, root, system)
    if folder is None:
        import torchvision

        folder = folders[1]
        try:
            getattr(torchvision.datasets, name)(root, download=True)
        except Exception as error:  # torchvision raises many kinds: no network, damaged file, full disk
            places = ", ".join(str(f) for f in folders)
            raise UserError(
                f"data={option} was found in none of {places}, and the download failed ({brief(error)}): put the four "
                f".gz files into data.root={root}, or choose data=fashion_mnist_mini, which needs no download."
            ) from error
    splits = []
    for images, labels in IDX_FILES:
        pixels, classes = read_idx(folder / images, 3), read_idx(folder / labels, 1)
        if len(pixels) != len(classes):
            raise UserError(f"{folder}: {images} holds {len(pixels)} images but {labels} {len(classes)} labels.")
        splits.append(Images(pixels.unsqueeze(1), classes.long()))
    return splits[0], splits[1]


def read_idx(path: Path, dimensions: int) -> Tensor:
    """A gzipped IDX file of bytes → uint8 tensor with so many dimensions; `UserError` when it is damaged."""
    way_out = "fetch it again, or move it away so that the next place is looked at"
    header = 4 + 4 * dimensions
    try:
        with gzip.open(path) as file:
            head = file.read(header)
            if len(head) < header or head[:4] != bytes([0, 0, 8, dimensions]):
                raise UserError(f"The data file {path} is not an IDX file with {dimensions} dimensions: {way_out}.")
            shape = np.frombuffer(head, ">u4", dimensions, offset=4).tolist()
            size = math.prod(shape)
            if size > MEMORY_LIMIT:
                raise UserError(f"The data file {path} announces {shape} bytes, more than fit in memory: {way_out}.")
            content = file.read(size + 1)
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"The data file {path} is missing beside its companions: {way_out}.") from error
    except Exception as error:  # zlib.error derives from Exception alone
        raise UserError(f"The data file {path} is damaged ({brief(error)}): {way_out}.") from error
    if len(content) != size:
        raise UserError(f"The data file {path} announces {shape} bytes but holds more or fewer: {way_out}.")
    return torch.from_numpy(np.frombuffer(bytearray(content), np.uint8).reshape(shape))

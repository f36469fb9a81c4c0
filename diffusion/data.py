"""Images as uint8 in memory, ready to be selected by index.

The networks see values in [−1, 1]: `encode` maps 0..255 there, `decode` rounds back, and the two are inverse on
0..255. Small data sets live whole on the training device and a batch is one indexing operation; a folder of images
that is larger than `memory_limit` is decoded from its files instead.
"""

import gzip
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from diffusion.errors import UserError
from diffusion.randomness import DATA_ORDER, SPLIT, stream

FASHION_CLASSES = "T-shirt Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag Ankle-boot".split()
CIFAR_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()
HIRAGANA = "o ki su tsu na ha ma ya re wo".split()
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
ASSETS = Path(__file__).parent / "assets"


def encode(images: Tensor) -> Tensor:
    """uint8 in 0..255 → float32 in [−1, 1]; any shape."""
    return images.float().div_(127.5).sub_(1)


def decode(x: Tensor) -> Tensor:
    """float in [−1, 1] → uint8 in 0..255, rounded first and then clamped; any shape."""
    return x.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


class Images:
    """Images held in memory: uint8 (N, C, H, W), with labels int64 (N,) or None."""

    def __init__(self, images: Tensor, labels: Tensor | None = None) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def select(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images and labels at `indices` (B,), which lie on the device of the images."""
        return self.images[indices], None if self.labels is None else self.labels[indices]

    def to(self, device: torch.device) -> "Images":
        return Images(self.images.to(device), None if self.labels is None else self.labels.to(device))


class ImageFiles(torch.utils.data.Dataset):
    """Images that stay in their files until they are asked for; the same interface as `Images`."""

    def __init__(self, paths: Sequence[Path], labels: Tensor | None, size: int, channels: int) -> None:
        self.paths, self.labels, self.size, self.channels = list(paths), labels, size, channels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        label = -1 if self.labels is None else int(self.labels[index])
        return read_image(self.paths[index], self.size, self.channels), label

    def select(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        images = torch.stack([self[int(i)][0] for i in indices])
        return images, None if self.labels is None else self.labels[indices.cpu()]

    def to(self, device: torch.device) -> "ImageFiles":
        return self


class ImageData:
    """A data set: a training and a test split, the names of its classes, and how the network sees it.

    Args:
        name: used in reports and cache keys.
        train, test: the splits, at the images' own size.
        class_names: one name per label, empty when there are no labels.
        padding: black pixels added on every side for the network and cropped from its samples (28 → 32 is 2).
        packaged_scorer: name of the scorer in this package that judges these images, if there is one.
    """

    def __init__(
        self,
        name: str,
        train: Images | ImageFiles,
        test: Images | ImageFiles,
        class_names: Sequence[str],
        padding: int = 0,
        packaged_scorer: str | None = None,
    ) -> None:
        if padding < 0:
            raise ValueError(f"padding={padding} must be 0 or more pixels")
        self.name, self.train, self.test, self.padding = name, train, test, padding
        self.class_names, self.packaged_scorer = list(class_names), packaged_scorer
        first, _ = train.select(torch.zeros(1, dtype=torch.long))
        self.channels, self.image_size = first.shape[1], first.shape[-1]

    def describe(self) -> dict:
        """What a model must know of its images: size, channels, padding and class names."""
        return {
            "size": self.image_size,
            "channels": self.channels,
            "padding": self.padding,
            "class_names": self.class_names,
        }

    def fingerprint(self) -> str:
        """A hash of the content of the training split: the key of everything that is cached about this data."""
        digest = hashlib.sha256()
        if isinstance(self.train, Images):
            digest.update(self.train.images.cpu().numpy().tobytes())
        else:
            for path in self.train.paths:
                digest.update(f"{path.name}:{path.stat().st_size}:{path.stat().st_mtime_ns}".encode())
        if self.train.labels is not None:
            digest.update(self.train.labels.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]


def batches(
    split: Images | ImageFiles, batch_size: int, seed: int, first_step: int, device: torch.device, workers: int = 2
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The endless stream of training batches, from step `first_step` on.

    Position p of the stream is image `permutation(seed, epoch)[p mod N]` with epoch = p div N, so the order depends
    on the seed and the step alone and a batch may reach over the end of an epoch.

    Returns:
        an iterator of (uint8 (B, C, H, W), labels (B,) or None) on `device`.
    """
    if isinstance(split, Images):
        resident = split.to(device)
        for indices in _index_batches(len(split), batch_size, seed, first_step, device):
            yield resident.select(indices)
    order = _index_batches(len(split), batch_size, seed, first_step, torch.device("cpu"))
    loader = torch.utils.data.DataLoader(
        split,  # type: ignore[arg-type]
        batch_sampler=(indices.tolist() for indices in order),  # type: ignore[arg-type]
        num_workers=workers,
        pin_memory=device.type == "cuda",
    )
    for images, labels in loader:
        yield images.to(device, non_blocking=True), None if split.labels is None else labels.to(device)


def _index_batches(size: int, batch_size: int, seed: int, step: int, device: torch.device) -> Iterator[Tensor]:
    permutations: dict[int, Tensor] = {}
    while True:
        position, parts = step * batch_size, []
        while position < (step + 1) * batch_size:
            epoch, start = divmod(position, size)
            if epoch not in permutations:
                generator = stream(seed, DATA_ORDER, epoch)
                permutations = {epoch: torch.randperm(size, generator=generator).to(device)}
            parts.append(permutations[epoch][start : start + (step + 1) * batch_size - position])
            position += len(parts[-1])
        yield torch.cat(parts)
        step += 1


def pad_images(images: Tensor, padding: int) -> Tensor:
    """Add black (0) pixels on every side: uint8 (N, C, H, W) → (N, C, H + 2p, W + 2p)."""
    return pad(images, [padding] * 4) if padding else images


def crop_images(images: Tensor, padding: int) -> Tensor:
    """The inverse of `pad_images`."""
    return images[..., padding:-padding, padding:-padding] if padding else images


# ---------------------------------------------------------------------------------------------- the data sets


def fashion_mnist(root: str, padding: int = 0) -> ImageData:
    """Fashion-MNIST (Xiao et al. 2017): 60,000 + 10,000 grey 28×28 images of ten kinds of garment.

    Looked for in `root`, then in the folder of Debian's package dataset-fashion-mnist, then downloaded into `root`.
    """
    system = Path("/usr/share/datasets/fashion-mnist")
    train, test = _idx_data("FashionMNIST", Path(root), [system])
    return ImageData("fashion_mnist", train, test, FASHION_CLASSES, padding, "fashion_mnist")


def fashion_mnist_mini(padding: int = 0) -> ImageData:
    """A class-balanced subset of Fashion-MNIST that is part of this package: 6,000 + 1,000 images."""
    with np.load(ASSETS / "fashion_mnist_mini.npz", allow_pickle=False) as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file.files}
    train = Images(arrays["train_images"].unsqueeze(1), arrays["train_labels"].long())
    test = Images(arrays["test_images"].unsqueeze(1), arrays["test_labels"].long())
    return ImageData("fashion_mnist_mini", train, test, FASHION_CLASSES, padding, "fashion_mnist")


def mnist(root: str, padding: int = 0) -> ImageData:
    """MNIST (LeCun et al. 1998): 60,000 + 10,000 grey 28×28 digits, from `root` or downloaded into it."""
    train, test = _idx_data("MNIST", Path(root), [])
    return ImageData("mnist", train, test, [str(i) for i in range(10)], padding)


def kmnist(root: str, padding: int = 0) -> ImageData:
    """Kuzushiji-MNIST (Clanuwat et al. 2018): 60,000 + 10,000 grey 28×28 cursive Hiragana."""
    train, test = _idx_data("KMNIST", Path(root), [])
    return ImageData("kmnist", train, test, HIRAGANA, padding)


def cifar10(root: str, padding: int = 0) -> ImageData:
    """CIFAR-10 (Krizhevsky 2009): 50,000 + 10,000 colour 32×32 photographs, from `root` or downloaded into it."""
    from torchvision.datasets import CIFAR10

    splits = []
    for train in (True, False):
        try:
            loaded = CIFAR10(root, train=train, download=True)
        except Exception as error:  # torchvision raises many kinds: no network, damaged archive, full disk
            raise UserError(
                f"data=cifar10: not found whole in data.root={root} and the download failed ({_short(error)}); "
                "put cifar-10-python.tar.gz there, or choose data=fashion_mnist_mini, which needs no download."
            ) from error
        images = torch.from_numpy(loaded.data).permute(0, 3, 1, 2).contiguous()
        splits.append(Images(images, torch.tensor(loaded.targets)))
    return ImageData("cifar10", splits[0], splits[1], CIFAR_CLASSES, padding)


def image_folder(
    root: str,
    image_size: int,
    channels: int = 3,
    labels: bool | None = None,
    test_fraction: float = 0.1,
    memory_limit: float = 4.0,
    padding: int = 0,
) -> ImageData:
    """Any images: each is scaled until its shorter side is `image_size`, then cropped in the middle.

    Args:
        root: a folder of images, or of one subfolder per class; with subfolders named `train` and `test` those
            are the splits.
        image_size: side of the square that is cut, in pixels.
        channels: 3 for colour, 1 for grey.
        labels: take the subfolders as classes; None means: if there are any subfolders.
        test_fraction: share of the images held out when there is no `test` folder.
        memory_limit: GiB of decoded images above which they are read from their files, batch by batch.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels={channels}: images are grey (1) or colour (3)")
    if image_size < 4:
        raise ValueError(f"image_size={image_size} is too small: give at least 4 pixels")
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction={test_fraction} must lie between 0 and 1")
    folder = Path(root)
    split = (folder / "train").is_dir() and (folder / "test").is_dir()
    train_paths = find_images(folder / "train" if split else folder)
    base = folder / "train" if split else folder
    names = sorted({path.relative_to(base).parts[0] for path in train_paths if path.parent != base})
    if labels is False or (labels is None and not names):
        names = []
    elif not names or any(path.parent == base for path in train_paths):
        raise UserError(
            f"data.labels: not every image of data.root={root} lies in a subfolder that names its class; "
            "set data.labels=false to train without labels."
        )
    if split:
        test_paths = find_images(folder / "test")
    else:
        if len(train_paths) < 2:
            raise UserError(f"data.root={root} holds {len(train_paths)} image: at least 2 are needed.")
        order = torch.randperm(len(train_paths), generator=stream(0, SPLIT)).tolist()
        held_out = max(1, round(test_fraction * len(order)))
        test_paths = [train_paths[i] for i in sorted(order[:held_out])]
        train_paths = [train_paths[i] for i in sorted(order[held_out:])]

    def load(paths: list[Path], base: Path) -> Images | ImageFiles:
        numbers = [names.index(path.relative_to(base).parts[0]) for path in paths] if names else None
        files = ImageFiles(paths, None if numbers is None else torch.tensor(numbers), image_size, channels)
        if len(paths) * channels * image_size**2 > memory_limit * 2**30:
            return files
        return Images(*files.select(torch.arange(len(files))))

    test_base = folder / "test" if split else folder
    return ImageData(folder.name, load(train_paths, base), load(test_paths, test_base), names, padding)


def find_images(folder: Path) -> list[Path]:
    """All images under `folder`, in the order of their names; at least one, else `UserError`."""
    if not folder.is_dir():
        raise UserError(f"The image folder {folder} does not exist.")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise UserError(f"The folder {folder} holds no images ({', '.join(IMAGE_SUFFIXES)}).")
    return paths


def read_image(path: Path, size: int | None, channels: int) -> Tensor:
    """One image file → uint8 (C, size, size): shorter side scaled to `size`, cropped in the middle.

    With `size=None` the image keeps its own height and width.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            image = image.convert("L" if channels == 1 else "RGB")
            if size is not None:
                scale = size / min(image.size)
                width, height = (max(size, round(side * scale)) for side in image.size)
                if (width, height) != image.size:
                    image = image.resize((width, height), Image.Resampling.LANCZOS)
                left, top = (width - size) // 2, (height - size) // 2
                image = image.crop((left, top, left + size, top + size))
            pixels = np.array(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"The image {path} cannot be read ({_short(error)}): mend or remove it.") from error
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], channels)).permute(2, 0, 1).contiguous()


# ------------------------------------------------------------------------------------------ IDX files (MNIST)

IDX_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


def _idx_data(name: str, root: Path, system: list[Path]) -> tuple[Images, Images]:
    """The first of `root`, torchvision's folder in it, the system's folders, or a download that has the files."""
    downloaded = root / name / "raw"
    folders = [root, downloaded, *system]
    wanted = [file for pair in IDX_FILES.values() for file in pair]
    folder = next((f for f in folders if any((f / file).exists() for file in wanted)), None)
    if folder is None:
        import torchvision

        folder = downloaded
        try:
            getattr(torchvision.datasets, name)(root, download=True)
        except Exception as error:  # torchvision raises many kinds: no network, damaged file, full disk
            places = ", ".join(str(f) for f in folders)
            raise UserError(
                f"{name} was found in none of {places}, and the download failed ({_short(error)}): put the four "
                f".gz files into data.root={root}, or choose data=fashion_mnist_mini, which needs no download."
            ) from error
    splits = []
    for images, labels in IDX_FILES.values():
        pixels, classes = read_idx(folder / images, 3), read_idx(folder / labels, 1)
        if len(pixels) != len(classes):
            raise UserError(f"{folder}: {images} holds {len(pixels)} images but {labels} {len(classes)} labels.")
        splits.append(Images(pixels.unsqueeze(1), classes.long()))
    return splits[0], splits[1]


def read_idx(path: Path, dimensions: int) -> Tensor:
    """A gzipped IDX file of bytes → uint8 tensor with so many dimensions; `UserError` when it is damaged."""
    way_out = "fetch it again, or move it away so that the next place is looked at"
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"The data file {path} is missing beside its companions: {way_out}.") from error
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"The data file {path} is damaged ({_short(error)}): {way_out}.") from error
    except Exception as error:  # zlib.error derives from Exception alone
        raise UserError(f"The data file {path} is damaged ({_short(error)}): {way_out}.") from error
    header = 4 + 4 * dimensions
    if len(content) < header or content[:4] != bytes([0, 0, 8, dimensions]):
        raise UserError(f"The data file {path} is not an IDX file with {dimensions} dimensions: {way_out}.")
    shape = np.frombuffer(content, ">u4", dimensions, offset=4).astype(np.int64)
    if len(content) != header + int(np.prod(shape)):
        raise UserError(f"The data file {path} announces {shape.tolist()} bytes but is cut short: {way_out}.")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=header).reshape(shape.tolist()).copy())


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__

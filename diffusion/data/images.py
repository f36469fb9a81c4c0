"""Images as uint8 in memory, ready to be selected by index.

The networks see values in [−1, 1]: `encode` maps 0..255 there, `decode` rounds back, and the two are inverse on
0..255. Small data sets live whole on the training device and a batch is one indexing operation; a folder of images
that is larger than `memory_limit` is decoded from its files instead.
"""

import copy
import hashlib
import logging
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad

from diffusion.data.augmentation import Augmentation
from diffusion.data.decoding import VERSION, WHITE, Colour, read_image
from diffusion.data.shapes import AUTO, Padding, Size, short, sides
from diffusion.data.workers import loaded
from diffusion.system.errors import UserError
from diffusion.system.randomness import DATA_ORDER, stream

log = logging.getLogger("diffusion")
ASSETS = Path(__file__).parent.parent / "assets"


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

    def subset(self, indices: Tensor) -> "Images":
        """A split of the images at `indices` alone."""
        return Images(*self.select(indices))

    def resident(self, device: torch.device) -> "Images":
        """The split on the device, if it takes less than half of the memory that is free there; else as it is."""
        if device.type == "cuda" and 2 * self.images.nbytes > torch.cuda.mem_get_info(device)[0]:
            return self
        return Images(self.images.to(device), None if self.labels is None else self.labels.to(device))


class ImageFiles(torch.utils.data.Dataset):
    """Images that stay in their files until they are asked for; the same interface as `Images`.

    Args:
        paths: of the N files.
        labels: int64 (N,) or None.
        size, channels, background, way_out, fit: as in `read_image`.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        labels: Tensor | None,
        size: int | Size,
        channels: int,
        background: Colour = WHITE,
        way_out: str = "mend or remove it",
        fit: str = "crop",
    ) -> None:
        self.paths, self.labels, self.size, self.channels = list(paths), labels, size, channels
        self.background, self.way_out, self.fit = background, way_out, fit

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        label = -1 if self.labels is None else int(self.labels[index])
        path, how = self.paths[index], (self.size, self.channels, self.background, self.way_out, self.fit)
        return read_image(path, *how), label

    def select(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        images = torch.stack([self[int(i)][0] for i in indices])
        return images, None if self.labels is None else self.labels[indices.cpu()]

    def subset(self, indices: Tensor) -> "ImageFiles":
        part = copy.copy(self)
        part.paths = [self.paths[int(i)] for i in indices]
        part.labels = None if self.labels is None else self.labels[indices]
        return part


class ImageData:
    """A data set: a training and a test split, the names of its classes, and how the network sees it.

    Args:
        name: used in reports and cache keys.
        train, test: the splits, at the images' own size.
        class_names: one name per label, empty when there are no labels. One class says nothing, so that its images
            are taken as unlabelled, too.
        padding: black pixels added on every side for the network and cropped from its samples (28 → 32 is 2), or on
            [top, bottom, left, right]; "auto" leaves it to the network of a run.
        packaged_scorer: name of the scorer in this package that judges these images, if there is one.
        background: what shows through transparent pixels, here and in images that are compared with these.
        augmentation: how training images are varied; None leaves them as they are.

    Attributes:
        image_size: (height, width).
    """

    def __init__(
        self,
        name: str,
        train: Images | ImageFiles,
        test: Images | ImageFiles,
        class_names: Sequence[str],
        padding: Padding = 0,
        packaged_scorer: str | None = None,
        background: Colour = WHITE,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.name, self.train, self.test = name, train, test
        self.padding: Padding = padding if padding == AUTO else short(sides(padding))
        self.augmentation = augmentation or Augmentation()
        self.class_names, self.packaged_scorer, self.background = list(class_names), packaged_scorer, background
        for labels in (train.labels, test.labels):
            if labels is not None and not set(labels.unique().tolist()) <= set(range(len(class_names))):
                raise UserError(
                    f"data={name} has labels outside 0 … {len(class_names) - 1}, the numbers of its classes."
                )
        if not len(train) or not len(test):
            raise UserError(f"data={name} holds {len(train)} + {len(test)} images: at least one of each is needed.")
        if len(class_names) == 1:
            log.info("data=%s has one class (%s), so it is treated as unlabelled.", name, class_names[0])
            self.train, self.test, self.class_names = unlabelled(train), unlabelled(test), []
        first, _ = train.select(torch.zeros(1, dtype=torch.long))
        self.channels, self.image_size = first.shape[1], (first.shape[-2], first.shape[-1])
        self.augmentation.check(*self.image_size)

    def describe(self) -> dict:
        """What a model must know of its images: size, channels, padding, class names, root mean square, number.

        Also a hash of the labels it learns, and one of the test split, by which a run knows them again.
        """
        return {
            "size": short(self.image_size),
            "channels": self.channels,
            "padding": self.padding,
            "class_names": self.class_names,
            "sigma_data": self.root_mean_square(),
            "images": len(self.train),
            "labels": hash_of(self.train.labels),
            "test": hash_of(self.test.images if isinstance(self.test, Images) else None, self.test.labels),
        }

    def root_mean_square(self) -> float:
        """√E[x²] of the training pixels in [−1, 1] with their padding; of 1,000 even ones if they are in files."""
        few = torch.linspace(0, len(self.train) - 1, min(1000, len(self.train))).long()
        images = self.train.images if isinstance(self.train, Images) else self.train.select(few)[0]
        counts = torch.bincount(images.cpu().flatten(), minlength=256).double()
        (height, width), (top, bottom, left, right) = self.image_size, sides(self.padding)
        taller, wider = 1 + (top + bottom) / height, 1 + (left + right) / width
        counts[0] += images.numel() * ((taller**2 if taller == wider else taller * wider) - 1)  # two roundings differ
        values = encode(torch.arange(256)).double()
        return float((counts @ values.square() / counts.sum()).sqrt())

    def fingerprint(self, split: str = "train") -> str:
        """A hash of a split, "train" or "test", as it is seen: part of the key of everything cached about this data."""
        images: Images | ImageFiles = self.train if split == "train" else self.test
        digest = hashlib.sha256(f"{self.channels}, {short(self.image_size)}, {len(images)};".encode())
        if isinstance(images, Images):
            digest.update(images.images.cpu().numpy().tobytes())
        else:
            fit = "" if images.fit == "crop" else f", {images.fit}"
            digest.update(f"{VERSION}, {images.background}{fit};".encode())
            for path in images.paths:
                digest.update(f"{path.name}:{path.stat().st_size}:{path.stat().st_mtime_ns}".encode())
        if images.labels is not None:
            digest.update(images.labels.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]


def hash_of(*tensors: Tensor | None) -> str:
    """A short hash of integers of any shape and device: their sizes and values, and which are None."""
    digest = hashlib.sha256()
    for each in tensors:
        digest.update(f"{None if each is None else list(each.shape)};".encode())
        if each is not None:
            digest.update(each.cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]


def unlabelled(split: Images | ImageFiles) -> Images | ImageFiles:
    """The same images without labels."""
    split = copy.copy(split)
    split.labels = None
    return split


def batches(
    split: Images | ImageFiles,
    batch_size: int,
    seed: int,
    first_step: int,
    device: torch.device,
    workers: int = 2,
    part: slice = slice(None),
) -> Generator[tuple[Tensor, Tensor | None]]:
    """The endless stream of training batches, from step `first_step` on.

    Position p of the stream is image `permutation(seed, epoch)[p mod N]` with epoch = p div N, so the order depends
    on the seed and the step alone and a batch may reach over the end of an epoch. With `part` only that part of each
    batch is read: the others' are read by other processes.

    Returns:
        an iterator of (uint8 (B, C, H, W), labels (B,) or None) on `device`.
    """
    if isinstance(split, Images):
        resident = split.resident(device)
        for indices in _index_batches(len(split), batch_size, seed, first_step, resident.images.device):
            images, labels = resident.select(indices[part])
            yield images.to(device), None if labels is None else labels.to(device)

    def order(done: int) -> Iterator[list[int]]:
        found = _index_batches(len(split), batch_size, seed, first_step + done, torch.device("cpu"))
        return (indices[part].tolist() for indices in found)

    for images, labels in loaded(split, order, workers, pin=device.type == "cuda"):  # type: ignore[arg-type]
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


def pad_images(images: Tensor, padding: int | str | Sequence[int]) -> Tensor:
    """Add black (0) pixels around uint8 images (N, C, H, W): as many on every side, or [top, bottom, left, right]."""
    top, bottom, left, right = sides(padding)
    return pad(images, [left, right, top, bottom]) if top + bottom + left + right else images


def crop_images(images: Tensor, padding: int | str | Sequence[int]) -> Tensor:
    """The inverse of `pad_images`."""
    top, bottom, left, right = sides(padding)
    height, width = images.shape[-2:]
    return images[..., top : height - bottom, left : width - right]

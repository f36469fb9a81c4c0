"""Images as uint8 in memory, ready to be selected by index.

The networks see values in [−1, 1]: `encode` maps 0..255 there, `decode` rounds back, and the two are inverse on
0..255. Small data sets live whole on the training device and a batch is one indexing operation; a folder of images
that is larger than `memory_limit` is decoded from its files instead.
"""

import hashlib
import multiprocessing
import signal
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from diffusion.system.errors import UserError, brief
from diffusion.system.randomness import DATA_ORDER, stream
from diffusion.system.untrusted import open_image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
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

    def subset(self, indices: Tensor) -> "ImageFiles":
        labels = None if self.labels is None else self.labels[indices]
        return ImageFiles([self.paths[int(i)] for i in indices], labels, self.size, self.channels)


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
        for labels in (train.labels, test.labels):
            if labels is not None and not set(labels.unique().tolist()) <= set(range(len(class_names))):
                raise UserError(
                    f"data={name} has labels outside 0 … {len(class_names) - 1}, the numbers of its classes."
                )
        if not len(train) or not len(test):
            raise UserError(f"data={name} holds {len(train)} + {len(test)} images: at least one of each is needed.")
        first, _ = train.select(torch.zeros(1, dtype=torch.long))
        self.channels, self.image_size = first.shape[1], first.shape[-1]

    def describe(self) -> dict:
        """What a model must know of its images: size, channels, padding, class names, and their root mean square."""
        return {
            "size": self.image_size,
            "channels": self.channels,
            "padding": self.padding,
            "class_names": self.class_names,
            "sigma_data": self.root_mean_square(),
        }

    def root_mean_square(self) -> float:
        """√E[x²] of the training pixels in [−1, 1] with their padding; of 1,000 even ones if they are in files."""
        few = torch.linspace(0, len(self.train) - 1, min(1000, len(self.train))).long()
        images = self.train.images if isinstance(self.train, Images) else self.train.select(few)[0]
        counts = torch.bincount(images.cpu().flatten(), minlength=256).double()
        counts[0] += images.numel() * ((1 + 2 * self.padding / self.image_size) ** 2 - 1)
        values = encode(torch.arange(256)).double()
        return float((counts @ values.square() / counts.sum()).sqrt())

    def fingerprint(self, split: str = "train") -> str:
        """A hash of a split, "train" or "test", as it is seen: part of the key of everything cached about this data."""
        images: Images | ImageFiles = self.train if split == "train" else self.test
        digest = hashlib.sha256(f"{self.channels}, {self.image_size}, {len(images)};".encode())
        if isinstance(images, Images):
            digest.update(images.images.cpu().numpy().tobytes())
        else:
            for path in images.paths:
                digest.update(f"{path.name}:{path.stat().st_size}:{path.stat().st_mtime_ns}".encode())
        if images.labels is not None:
            digest.update(images.labels.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]


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
    order = _index_batches(len(split), batch_size, seed, first_step, torch.device("cpu"))
    loader = torch.utils.data.DataLoader(
        split,  # type: ignore[arg-type]
        batch_sampler=(indices[part].tolist() for indices in order),
        num_workers=workers,
        pin_memory=device.type == "cuda",
        # Inside a job of joblib, Python's own way to start processes is another one.
        multiprocessing_context="fork" if workers and "fork" in multiprocessing.get_all_start_methods() else None,
        worker_init_fn=_leave_signals_to_the_parent,
    )
    try:
        for images, labels in loader:
            yield images.to(device, non_blocking=True), None if split.labels is None else labels.to(device)
    except UserError as error:  # one from a worker comes with the worker's traceback in its text
        raise UserError(str(error).strip().rpartition("UserError: ")[2]) from error


def _leave_signals_to_the_parent(worker: int) -> None:
    """Ctrl-C, and what torchrun or a batch system sends, reaches all processes; the training process answers it.

    It may need some more images to finish its step, and ends this process then; or else an alarm does.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    alarm = getattr(signal, "alarm", None)  # Windows has none
    signal.signal(signal.SIGTERM, signal.SIG_DFL if alarm is None else lambda number, frame: alarm(30))


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
    from PIL import Image, ImageOps

    try:
        with open_image(path) as file:
            image: Image.Image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I"):  # 16 bits per pixel, which convert() would clip instead of scale
                values = (np.array(image, np.float32) / 257).round().clip(0, 255)
                image = Image.fromarray(values.astype(np.uint8))
            image = image.convert("L" if channels == 1 else "RGB")
            if size is not None:
                scale = size / min(image.size)
                width, height = (max(size, round(side * scale)) for side in image.size)
                if (width, height) != image.size:
                    image = image.resize((width, height), Image.Resampling.LANCZOS)
                left, top = (width - size) // 2, (height - size) // 2
                image = image.crop((left, top, left + size, top + size))
            pixels = np.array(image)
    except Exception as error:  # Pillow raises many kinds for a damaged file
        raise UserError(f"The image {path} cannot be read ({brief(error)}): mend or remove it.") from error
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], channels)).permute(2, 0, 1).contiguous()

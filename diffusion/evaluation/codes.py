"""What images need without a network, beside the bits of a model: by a histogram of grey levels, and as PNG."""

import io

import torch
from torch import Tensor

from diffusion.data.images import ImageFiles, Images
from diffusion.drawing.pictures import to_pil
from diffusion.evaluation.reference import even_order

READ = 10_000  # training images that the histogram is made of, where they lie in files


def histogram_bits(train: Images | ImageFiles, images: Tensor) -> Tensor:
    """Bits per dimension (n,) of uint8 images (n, C, H, W) whose pixels are drawn from the training images' histogram.

    There is one histogram for each channel, with one added to every count (Laplace), so that no grey level is
    impossible; which pixel it is, and what its neighbours are, the model does not know.
    """
    order = even_order(train.labels, len(train))[: READ if isinstance(train, ImageFiles) else None]
    counts = torch.ones(images.shape[1], 256, dtype=torch.float64)
    for part in order.split(1000):
        for channel, values in enumerate(train.select(part)[0].cpu().unbind(dim=1)):
            counts[channel] += torch.bincount(values.flatten(), minlength=256)
    bits = -torch.log2(counts / counts.sum(dim=1, keepdim=True))  # (C, 256)
    return torch.stack([bits[c][x.long()] for c, x in enumerate(images.unbind(dim=1))], dim=1).flatten(1).mean(dim=1)


def png_bits(images: Tensor) -> Tensor:
    """Bits per dimension (n,) of uint8 images (n, C, H, W) as PNG: the compressed data, without a file's headers."""
    found = []
    for image in images:
        file = io.BytesIO()
        to_pil(image).save(file, "PNG", optimize=True)
        content, place, size = file.getvalue(), 8, 0
        while place < len(content):  # a chunk: its length, its name, as many bytes, a checksum
            length = int.from_bytes(content[place : place + 4])
            size += length if content[place + 4 : place + 8] == b"IDAT" else 0
            place += 12 + length
        found.append(8 * size / image.numel())
    return torch.tensor(found, dtype=torch.float64)

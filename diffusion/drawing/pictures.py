"""Pictures for people: labelled grids and a GIF of the denoising."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from diffusion.system.files import replacing


def tile(images: Tensor, columns: int, gap: int = 2) -> Tensor:
    """uint8 (n, C, H, W) → one uint8 picture (C, rows·(H + gap) + gap, columns·(W + gap) + gap), row by row."""
    n, channels, height, width = images.shape
    rows = math.ceil(n / columns)
    picture = torch.full((channels, rows * (height + gap) + gap, columns * (width + gap) + gap), 255, dtype=torch.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + gap) + gap, (i % columns) * (width + gap) + gap
        picture[:, top : top + height, left : left + width] = image
    return picture


def to_pil(picture: Tensor) -> Image.Image:
    """uint8 (C, H, W) with one or three channels → PIL image."""
    return Image.fromarray(picture.permute(1, 2, 0).squeeze(2).contiguous().numpy())


def labelled_grid(
    images: Tensor, columns: int, captions: Sequence[str] = (), scale: int = 2, rows: Sequence[str] = ()
) -> Image.Image:
    """A grid with a caption over each of the first columns (one caption alone stands over the whole grid).

    Args:
        images: uint8 (n, C, H, W), row by row.
        columns: images per row.
        captions: at most one per column.
        scale: enlargement, by repeating pixels.
        rows: a caption for each row, to its left.
    """
    grid = to_pil(tile(images, columns, gap=1))
    grid = grid.resize((grid.width * scale, grid.height * scale), Image.Resampling.NEAREST)
    if not captions and not rows:
        return grid
    cell = grid.width if len(captions) == 1 else grid.width / columns
    fonts = [ImageFont.load_default(size) for size in (11, 10, 9, 8)]
    font = next((font for font in fonts if max(map(font.getlength, captions), default=0) < cell), fonts[-1])
    top = 18 if captions else 0
    side = 8 + math.ceil(max(map(fonts[0].getlength, rows), default=-8))
    picture = Image.new("RGB", (grid.width + side, grid.height + top), "white")
    picture.paste(grid, (side, top))
    draw = ImageDraw.Draw(picture)
    for i, caption in enumerate(captions):
        left = 4.0 if len(captions) == 1 else max(0.0, i * cell + (cell - font.getlength(caption)) / 2)
        draw.text((side + left, 2), caption, fill="black", font=font)
    height = grid.height / math.ceil(len(images) / columns)
    for i, caption in enumerate(rows):
        draw.text((4, top + (i + 0.5) * height), caption, fill="black", font=fonts[0], anchor="lm")
    return picture


def grid_layout(labels: Tensor | None, class_names: Sequence[str], n: int) -> tuple[int, list[str]]:
    """Columns and captions for a grid of n images: one column per class where the labels go round regularly."""
    square = max(1, math.ceil(math.sqrt(n)))
    if labels is None:
        return square, []
    numbers = labels.tolist()
    period = next((p for p in range(1, len(numbers)) if numbers[p:] == numbers[:-p]), len(numbers))
    captions = [class_names[number] for number in numbers[:period]]
    if period == 1:
        return square, captions
    if 2 * period > n > 16:  # no rule in it
        return square, []
    return period, captions


def class_grid(images: Tensor, labels: Tensor | None, class_names: Sequence[str]) -> Image.Image:
    """The labelled grid of uint8 images (n, C, H, W) with labels (n,) or None, laid out by their classes."""
    return labelled_grid(images, *grid_layout(labels, class_names, len(images)))


class Film:
    """Collects the first batch of a sample while noise turns into images; pass it as `observe`.

    Args:
        to_images: network values → uint8 (n, C, H, W).
        labels, class_names: of the sample, for captions; None where it has no labels.
        steps: number of network evaluations; about 25 of them become frames.
        most: images shown.
    """

    def __init__(
        self,
        to_images: Callable[[Tensor], Tensor],
        labels: Tensor | None,
        class_names: Sequence[str],
        steps: int,
        most: int = 40,
    ) -> None:
        self.to_images, self.labels, self.class_names, self.most = to_images, labels, class_names, most
        self.every, self.seen = max(1, steps // 25), 0  # `most` shrinks to the first batch, so that frames agree
        self.frames: list[Image.Image] = []

    def __call__(self, x_t: Tensor, x_0: Tensor) -> None:
        self.most = min(self.most, len(x_t))
        if self.seen % self.every == 0:
            self.frames.append(self._frame(self.to_images(x_t[: self.most].float().cpu())))
        self.seen += 1

    def restart(self) -> None:
        """Forget what was collected."""
        self.frames, self.seen = [], 0

    def save(self, path: Path, images: Tensor) -> None:
        """Write an endless GIF that rests on the finished images."""
        frames = [*self.frames, self._frame(images[: self.most])]
        durations = [80] * len(self.frames) + [2000]
        with replacing(path) as temporary:
            frames[0].save(temporary, save_all=True, append_images=frames[1:], duration=durations, loop=0)

    def _frame(self, images: Tensor) -> Image.Image:
        labels = None if self.labels is None else self.labels[: len(images)]
        frame = class_grid(images, labels, self.class_names)
        return frame.convert("L").quantize(32) if images.shape[1] == 1 else frame  # noise hardly compresses


def save_picture(path: Path, picture: Image.Image) -> None:
    """Write a PNG."""
    with replacing(path) as temporary:
        picture.save(temporary)


def save_samples(path: Path, images: Tensor, labels: Tensor | None) -> None:
    """The usual evaluation format: arr_0 uint8 (N, H, W, C), arr_1 int64 labels (N,) where there are any."""
    arrays = {"arr_0": images.permute(0, 2, 3, 1).contiguous().numpy()}
    if labels is not None:
        arrays["arr_1"] = labels.numpy()
    with replacing(path) as temporary:
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]


def save_pngs(folder: Path, images: Tensor, labels: Tensor | None, class_names: Sequence[str]) -> None:
    """One PNG per image, in a subfolder per class where there are labels."""
    for i, image in enumerate(images):
        target = folder if labels is None else folder / class_names[int(labels[i])]
        save_picture(target / f"{i:06d}.png", to_pil(image))

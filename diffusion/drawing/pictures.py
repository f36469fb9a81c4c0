"""Pictures for people: labelled grids and a GIF of the denoising."""

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import pad

from diffusion.drawing.names import captions as captions_of
from diffusion.drawing.names import fitted, folder_names, font_file
from diffusion.system.files import replacing

log = logging.getLogger("diffusion")
MOST_COLUMNS = 20  # classes that have a column each
LONGEST, NARROWEST = 16_384, 48  # pixels of a grid from top to bottom, and of an image with a caption of its own


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
    heads = heading(captions, grid.width, columns)
    font = caption_fonts(rows)[0]
    side = 8 + math.ceil(max(map(font.getlength, rows), default=-8))
    picture = Image.new("RGB", (heads.width + side, grid.height + heads.height), "white")
    picture.paste(heads, (side, 0))
    picture.paste(grid, (side, heads.height))
    draw, height = ImageDraw.Draw(picture), grid.height / math.ceil(len(images) / columns)
    for i, caption in enumerate(rows):
        draw.text((4, heads.height + (i + 0.5) * height), caption, fill="black", font=font, anchor="lm")
    return picture


def heading(captions: Sequence[str], width: int, columns: int) -> Image.Image:
    """A strip with a caption over each column, written upwards where a column is too narrow for one of them.

    Args:
        captions: at most one per column; one alone is written from the left, and widens the strip if it must.
        width: of all columns, in pixels.
    """
    if not captions:
        return Image.new("RGB", (width, 0))
    cell = width if len(captions) == 1 else width / columns
    fonts = caption_fonts(captions)
    font = next((font for font in fonts if max(map(font.getlength, captions)) < cell), None)
    if font is None and len(captions) > 1:
        font = fonts[1] if cell > 12 else fonts[-1]
        lying = Image.new("RGB", (math.ceil(max(map(font.getlength, captions))) + 8, width), "white")
        draw = ImageDraw.Draw(lying)
        for i, caption in enumerate(captions):
            draw.text((4, (i + 0.5) * cell), caption, fill="black", font=font, anchor="lm")
        return lying.transpose(Image.Transpose.ROTATE_90)
    font = font or fonts[0]
    lengths = [font.getlength(caption) for caption in captions]
    strip = Image.new("RGB", (width if len(captions) > 1 else max(width, math.ceil(lengths[0]) + 8), 18), "white")
    for i, (caption, length) in enumerate(zip(captions, lengths, strict=True)):
        left = 4.0 if len(captions) == 1 else max(0.0, i * cell + (cell - length) / 2)
        ImageDraw.Draw(strip).text((left, 2), caption, fill="black", font=font)
    return strip


def caption_fonts(texts: Sequence[str]) -> list[ImageFont.FreeTypeFont]:
    """Fonts from large to small: Pillow's own, or DejaVu Sans where a sign is not in that."""
    if all(text.replace("…", "").isascii() for text in texts):
        return [ImageFont.load_default(size) for size in (11, 10, 9, 8)]  # type: ignore[misc]
    return [ImageFont.truetype(str(font_file()), size, layout_engine=ImageFont.Layout.BASIC) for size in (10, 9, 8)]


def grid_layout(labels: Tensor | None, class_names: Sequence[str], n: int) -> tuple[int, list[str]]:
    """Columns and captions for a grid of n images: one column per class where the labels go round regularly."""
    square = max(1, math.ceil(math.sqrt(n)))
    if labels is None:
        return square, []
    numbers = labels.tolist()
    period = next((p for p in range(1, len(numbers)) if numbers[p:] == numbers[:-p]), len(numbers))
    if period > 1 and (2 * period > n > 16 or period > MOST_COLUMNS):  # no rule in it, or too wide a picture
        return square, []
    shown = captions_of(class_names)
    return square if period == 1 else period, [shown[number] for number in numbers[:period]]


def class_grid(images: Tensor, labels: Tensor | None, class_names: Sequence[str]) -> Image.Image:
    """The labelled grid of uint8 images (n, C, H, W) with labels (n,) or None, laid out by their classes.

    Of more classes than a row has room for, images have a caption each. A picture ends at `LONGEST` pixels.
    """
    columns, captions = grid_layout(labels, class_names, len(images))
    if labels is None or captions or len(class_names) <= MOST_COLUMNS:
        return labelled_grid(images[: room(len(images), columns, 2 * images.shape[2] + 2)], columns, captions)
    return captioned_images(images, labels.tolist(), captions_of(class_names), columns)


def room(n: int, columns: int, height: int) -> int:
    """How many of n images a picture has room for, whose rows are so many pixels high; says where it has not."""
    shown = min(n, columns * max(1, LONGEST // height))
    if shown < n:
        log.info("The grid has room for the first %d of %d images.", shown, n)
    return shown


def captioned_images(images: Tensor, numbers: Sequence[int], captions: Sequence[str], columns: int) -> Image.Image:
    """A grid of uint8 images (n, C, H, W) with the caption of its class over each, shortened to its width."""
    scale = max(2, math.ceil(NARROWEST / (images.shape[3] + 1)))
    cell, band = (images.shape[3] + 1) * scale, math.ceil(13 / scale)
    height = (images.shape[2] + band + 1) * scale
    images = images[: room(len(images), columns, height)]
    picture = labelled_grid(pad(images, (0, 0, band, 0), value=255), columns, scale=scale).convert("RGB")
    font, draw = caption_fonts(captions)[2], ImageDraw.Draw(picture)
    drawn = {k: fitted(captions[k], lambda text: font.getlength(text) < cell - 1) for k in set(numbers[: len(images)])}
    for i, number in enumerate(numbers[: len(images)]):
        left, top = scale + i % columns * cell, scale + i // columns * height
        middle = left + (cell - scale) / 2
        draw.text((middle, top + band * scale / 2), drawn[number], fill="black", font=font, anchor="mm")
    return picture


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
    """One PNG per image, in a subfolder per class where there are labels, which has its name where one can have it."""
    folders = folder_names(class_names)
    targets = [
        (folder if labels is None else folder / folders[int(labels[i])]) / f"{i:06d}.png" for i in range(len(images))
    ]
    earlier = len(set(folder.glob("**/*.png")) - set(targets))
    if earlier:
        log.warning(
            "%s holds %d other images, from before: whoever reads it takes all of them; remove those, or draw into "
            "another folder by hydra.run.dir=….",
            folder,
            earlier,
        )
    for target, image in zip(targets, images, strict=True):
        save_picture(target, to_pil(image))

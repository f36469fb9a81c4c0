"""Images as one picture for a notebook: a grid, enlarged by repeating pixels, so that a few kilobytes hold it."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffusion.data.images import decode
from diffusion.drawing.pictures import labelled_grid
from diffusion.system.errors import UserError

WIDTH, LARGEST = 720, 4  # pixels that the enlarged grid should not exceed; times


def show(
    images: Any,
    columns: int | None = None,
    scale: int | None = None,
    captions: Sequence[Any] = (),
    rows: Sequence[Any] = (),
) -> Image.Image:
    """A grid of images, to be the last line of a cell.

    Args:
        images: a tensor or array (N, C, H, W), (N, H, W, C), (N, H, W), or one image (C, H, W) with one or three
            channels; uint8, or floats in [−1, 1] as networks see them, which are rounded and clamped.
        columns: images in a row; None is a square of them, or one for each caption.
        scale: how many times a pixel is repeated; None makes the grid as wide as a page, at most.
        captions: a text over each column; one alone stands over all.
        rows: a text before each row.

    Raises:
        UserError: these are no images.
    """
    pixels = as_pixels(images)
    if columns is None:
        columns = len(captions) if len(captions) > 1 else math.ceil(len(pixels) / len(rows)) if rows else 0
        columns = columns or math.ceil(math.sqrt(len(pixels)))
    columns = min(columns, len(pixels))
    if columns < 1 or (scale is not None and scale < 1):
        raise UserError(f"columns={columns} and scale={scale} must be at least 1.")
    if scale is None:
        scale = max(1, min(LARGEST, WIDTH // (columns * (pixels.shape[3] + 1))))
    texts, sides = ([str(each) for each in names] for names in (captions, rows))
    picture = labelled_grid(pixels, columns, texts[:columns], scale, sides)
    picture._repr_jpeg_ = None  # type: ignore[assignment]  # a notebook would keep the picture twice
    return picture


def as_pixels(images: Any) -> Tensor:
    """uint8 (N, C, H, W) on the CPU, with one or three channels, of what `show` takes."""
    try:
        if isinstance(images, list | tuple):
            images = torch.stack([torch.as_tensor(each) for each in images]) if len(images) else np.zeros(0)
        pixels = torch.as_tensor(np.asarray(images) if not isinstance(images, Tensor) else images).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:  # of objects, texts, or several shapes
        what = type(images).__name__
        raise UserError(f"These are no images: a {what} must be an array, or a list of those of one shape.") from error
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3):
        pixels = pixels[None]
    elif pixels.ndim == 3:
        pixels = pixels[:, None]
    if pixels.ndim == 4 and pixels.shape[1] not in (1, 3) and pixels.shape[3] in (1, 3):
        pixels = pixels.permute(0, 3, 1, 2)
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or not len(pixels):
        raise UserError(f"These are no images: {tuple(pixels.shape)} must be (N, C, H, W) with one or three channels.")
    if pixels.is_floating_point():
        return decode(pixels)
    if pixels.dtype != torch.uint8:
        raise UserError(f"These are no images: {pixels.dtype} must be uint8, or floats in [-1, 1].")
    return pixels

"""Images that somebody generated, from an .npz file or a folder, as a split to be scored."""

import logging
import os
from pathlib import Path

import numpy as np
import torch

from diffusion.data.decoding import reason
from diffusion.data.folders import find_images, refuse_file
from diffusion.data.images import ImageData, ImageFiles, Images
from diffusion.data.reading import unreadable
from diffusion.data.shapes import in_words
from diffusion.drawing.names import folder_names
from diffusion.system.array_files import read_arrays
from diffusion.system.errors import UserError, brief
from diffusion.system.untrusted import open_image

log = logging.getLogger("diffusion")


def load_samples(where: str, data: ImageData, key: str = "samples") -> Images | ImageFiles:
    """The images in `where`, uint8 (n, C, H, W), with labels where they are known.

    Args:
        where: an .npz with `arr_0`, uint8 (N, H, W, C) or (N, H, W), and perhaps `arr_1`, labels (N,); or a folder of
            images, in which subfolders that are all named like classes of the data give the labels. A folder's
            images stay in their files until they are asked for; colour is converted to grey where the data is.
        data: whose size and classes they must have.
        key: the setting, for messages.
    """
    path = Path(where)
    if os.path.isdir(path):
        return _folder(path, data, key)
    if not os.path.exists(path):
        raise UserError(f"{key}={where}: no such file or folder; give an .npz or a folder of images.")
    refuse_file(path, key, arrays=True)
    try:
        arrays = read_arrays(path, ("arr_0", "arr_1"))
        pixels, numbers = arrays["arr_0"], arrays.get("arr_1")
    except (ValueError, OSError, KeyError) as error:
        why = "it has none" if isinstance(error, KeyError) else brief(error)
        raise UserError(f"{key}={where} is no .npz with an array arr_0 of uint8 images (N, H, W, C): {why}.") from error
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.dtype != np.uint8 or pixels.ndim != 4:
        raise UserError(f"{key}={where}: arr_0 is {pixels.dtype} {pixels.shape}; it must be uint8 (N, H, W, C).")
    _check_size(f"{key}={where}", data, pixels.shape[1:3], pixels.shape[3])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    return _labelled(images, numbers, data, f"{key}={where}: arr_1")


def as_samples(pixels: np.ndarray, numbers: np.ndarray | None, data: ImageData) -> Images:
    """Images that Python gives, uint8 (N, C, H, W), (N, H, W, C) or (N, H, W); labels (N,) or None; data as above."""
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    if pixels.dtype != np.uint8 or pixels.ndim != 4:
        raise UserError(f"images: {pixels.dtype} {pixels.shape}; they must be uint8 (N, C, H, W) or (N, H, W, C).")
    if pixels.shape[1:] != (data.channels, *data.image_size) and pixels.shape[3] == data.channels:
        pixels = np.moveaxis(pixels, 3, 1)
    _check_size("images", data, pixels.shape[2:], pixels.shape[1])
    return _labelled(torch.from_numpy(np.ascontiguousarray(pixels)), numbers, data, "labels")


def _labelled(images: torch.Tensor, numbers: np.ndarray | None, data: ImageData, what: str) -> Images:
    if numbers is None or not data.class_names:
        return Images(images)
    if numbers.shape != (len(images),) or not np.issubdtype(numbers.dtype, np.integer):
        raise UserError(f"{what} is {numbers.dtype} {numbers.shape}; it must be N whole numbers.")
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(data.class_names):
        raise UserError(f"{what} holds labels outside 0 … {len(data.class_names) - 1}.")
    return Images(images, torch.from_numpy(numbers.astype(np.int64)))


def _folder(path: Path, data: ImageData, key: str) -> ImageFiles:
    paths = find_images(path, key)
    sizes: dict[Path, tuple[int, int]] = {}
    damaged: dict[int, str] = {}
    for row, file in enumerate(paths):
        try:
            with open_image(file) as image:  # reads the head alone
                sizes[file] = (image.height, image.width)
        except Exception as error:  # Pillow raises many kinds for a damaged file
            damaged[row] = reason(error)
    if damaged:
        raise UserError(f"{unreadable(paths, damaged)}.")
    for file, size in sizes.items():
        _check_size(f"{key}={file}", data, size, data.channels)
    folders = [file.relative_to(path).parts[0] for file in paths]
    classes = {name: k for names in (folder_names(data.class_names), data.class_names) for k, name in enumerate(names)}
    known = [name in classes for name in folders]
    if any(known) and not all(known):
        stray = sorted({name for name, good in zip(folders, known, strict=True) if not good})
        log.warning("%s=%s: %s is no class of data=%s, so the images have no labels.", key, path, stray[0], data.name)
    labels = torch.tensor([classes[name] for name in folders]) if all(known) else None
    return ImageFiles(paths, labels, data.image_size, data.channels, data.background)


def _check_size(what: str, data: ImageData, size: tuple[int, ...], channels: int) -> None:
    if size != data.image_size or channels != data.channels:
        other = ", or name the data= they belong to" if what.startswith(("samples", "images")) else ""
        raise UserError(
            f"{what}: {in_words(size)} pixels with {channels} channels, but the images of "
            f"data={data.name} have {in_words(data.image_size)} with {data.channels}: resizing would "
            f"change them, so make them that size{other}."
        )

"""From an image file to the pixels that a network sees: first transparency, then the right height and width.

What lies under transparent pixels means nothing (programs leave black, white or anything there), so that one colour
takes its place before anything else, c = a · colour + (1 − a) · background. Only then is the image scaled, or else the
hidden colours would bleed into the edges.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffusion.data.fitting import fitted
from diffusion.data.shapes import Size, pair
from diffusion.system.errors import UserError, brief
from diffusion.system.untrusted import open_image

if TYPE_CHECKING:
    from PIL import Image

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".webp"),
    *(".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".pnm"),
)
VERSION = 1  # of what is read from a file: part of the key of every cache of pixels
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
Colour = tuple[int, int, int]
ORIENTATION = 0x0112  # Exif's tag of how a camera was held
FEWER_BITS = {"L;2": 85, "L;4": 17}  # of PNG: Pillow widens the pixels to 8 bits, but not their transparent value


class Decoded(NamedTuple):
    """What a file holds.

    Args:
        pixels: uint8 (H, W, C).
        moving: there are more frames than this first one.
    """

    pixels: np.ndarray
    moving: bool


def read_image(
    path: Path,
    size: int | Size | None,
    channels: int,
    background: Colour = WHITE,
    way_out: str = "mend or remove it",
    fit: str = "crop",
) -> Tensor:
    """One image file → uint8 (C, H, W).

    Args:
        path: of the file; of several frames the first is read.
        size: (height, width) in pixels, or the side of a square; with None the image keeps its own.
        channels: 1 for grey, 3 for colour.
        background: red, green and blue of what shows through transparent pixels, and around an image that is padded.
        way_out: what the message about a damaged file advises.
        fit: how an image of another shape is brought to that size, see `diffusion.data.fitting`.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        pixels = decode_file(path, size, channels, background, fit).pixels
    except Exception as error:  # Pillow raises many kinds for a damaged file
        raise UserError(f"The image {path} cannot be read ({reason(error)}): {way_out}.") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def decode_file(
    path: Path | IO[bytes], size: int | Size | None, channels: int, background: Colour = WHITE, fit: str = "crop"
) -> Decoded:
    """As `read_image`, with the errors as they come: of Pillow, of the file system, and `ValueError`."""
    from PIL import ImageOps

    with open_image(path) as file:
        tile = getattr(file, "tile", None)  # known only until the pixels are loaded
        kind = tile[0].args if tile else ""
        tags: Any = getattr(file, "tag_v2", {})
        upright: Image.Image = ImageOps.exif_transpose(file)
        image = _opaque(_of_8_bits(upright, tags), upright, FEWER_BITS.get(str(kind), 1), background)
        image = image.convert("L" if channels == 1 else "RGB")
        if size is not None:
            image = fitted(image, pair(size), fit, background)
        pixels = np.array(image)
        return Decoded(pixels.reshape(*pixels.shape[:2], channels), has_more_frames(file))


def upright_size(file: "Image.Image") -> Size:
    """(height, width) of an open image file as it is shown; only its head is read."""
    turned = file.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
    return (file.width, file.height) if turned else (file.height, file.width)


def has_more_frames(file: "Image.Image") -> bool:
    """Whether an open image file holds several frames; the second image of a phone's photograph is none."""
    with suppress(Exception):  # of many kinds, where a later frame is damaged
        return file.format != "MPO" and bool(getattr(file, "is_animated", False))
    return False


def reason(error: BaseException) -> str:
    """Why a file cannot be read, without the path, which Pillow repeats."""
    if type(error).__name__ == "UnidentifiedImageError":
        return "it is no image, or a damaged one"
    return brief(error) if not isinstance(error, OSError) or not error.strerror else error.strerror


def colour(value: str | Sequence[int]) -> Colour:
    """A colour as red, green and blue.

    Args:
        value: a name such as white or black, "#rrggbb", or [r, g, b].

    Raises:
        ValueError: it is none of them.
    """
    from PIL import ImageColor

    with suppress(ValueError, TypeError):
        parts = ImageColor.getrgb(value) if isinstance(value, str) else tuple(value)
        if len(parts) == 3 and all(isinstance(part, int) and 0 <= part <= 255 for part in parts):
            return parts
    raise ValueError(
        f"background={value} is no colour: give white, black or another name, '#rrggbb', or [r,g,b] from 0 to 255"
    )


def _of_8_bits(image: "Image.Image", tags: Any) -> "Image.Image":
    """An image of 16 bits or of floating-point numbers with 8 bits per pixel; others as they are.

    Args:
        image: of any kind.
        tags: of a TIFF file.
    """
    from PIL import Image

    if image.mode[0] not in "IF":
        return image
    values = np.array(image, np.float32)
    if image.mode == "F":
        if not (values.min() >= -1e-3 and values.max() <= 1 + 1e-3):  # which also finds what is no number
            raise ValueError("its floating-point numbers are not from 0 to 1: save it with 8 or 16 bits per pixel")
        values = values * 255
    elif image.mode == "I" and tags:  # PNG and PGM of 16 bits may be of that kind as well
        raise ValueError("its whole numbers have 32 bits, or a sign: save it with 8 or 16 bits per pixel")
    else:  # which convert() would clip instead of scale
        values = values / (65535 / 255 if tags.get(258, (16,)) != (12,) else 4095 / 255)
    if tags.get(262) == 0:  # white is zero
        values = 255 - values
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))


def _opaque(image: "Image.Image", original: "Image.Image", factor: int, background: Colour) -> "Image.Image":
    """An image without transparency: as it was, or over one colour.

    Args:
        image: with 8 bits per pixel.
        original: as it is in the file, whose one transparent colour may have 16 bits.
        factor: from that colour as the file has it to that of the pixels.
        background: the colour.
    """
    from PIL import Image

    alpha: Image.Image | None = None
    key = original.info.get("transparency")
    if image.mode in ("RGBa", "La"):  # multiplied by their alpha
        image = image.convert(image.mode.upper())
    elif image.mode == "PA" or (image.mode == "P" and key is not None):
        image = image.convert("RGBA")
    if image.mode in ("RGBA", "LA"):
        alpha = image.getchannel("A")
    elif key is not None and original.mode in ("1", "L", "RGB", "I", "I;16", "I;16B"):
        wanted = np.asarray(key) * factor if original.mode != "1" else np.asarray(255 * bool(key))
        if original.mode == "RGB" and wanted.max() > 255:  # of 16 bits, of which Pillow keeps the upper half
            wanted = wanted >> 8
        pixels = np.array(original.convert("L") if original.mode == "1" else original)
        differs = (pixels != wanted).reshape(*pixels.shape[:2], -1).any(axis=-1)
        alpha = Image.fromarray(np.where(differs, 255, 0).astype(np.uint8))
    if alpha is None:
        return image
    ground = Image.new("RGB", image.size, background)
    ground.paste(image.convert("RGB"), mask=alpha)
    return ground

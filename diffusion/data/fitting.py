"""An image of any shape brought to one height and width, in one of three ways.

crop     scaled until it covers the size, and its middle cut out
pad      scaled until it fits inside, in the middle of the background
stretch  height and width scaled by factors of their own
"""

from typing import TYPE_CHECKING

from diffusion.data.shapes import Size

if TYPE_CHECKING:
    from PIL import Image

FITS = ("crop", "pad", "stretch")
LONGEST = 16  # times what is cut from it: an image that is longer is cropped before it is scaled


def check_fit(fit: str) -> None:
    """Raise `ValueError` unless this is one of the ways."""
    if fit not in FITS:
        raise ValueError(f"fit={fit} must be one of {', '.join(FITS)}")


def fitted(image: "Image.Image", size: Size, fit: str, background: tuple[int, int, int]) -> "Image.Image":
    """An opaque image at height and width `size`, scaled with Lanczos's filter where it must be.

    Args:
        image: grey ("L") or colour ("RGB").
        size: (height, width) in pixels.
        fit: one of `FITS`.
        background: red, green and blue of what `pad` adds.
    """
    if fit == "crop":
        return _cropped(image, *size)
    if fit == "stretch":
        return _scaled(image, *size)
    return _padded(image, *size, background)


def _cropped(image: "Image.Image", height: int, width: int) -> "Image.Image":
    from PIL import Image

    scale = max(width / image.width, height / image.height)
    across, down = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    left, top = (across - width) // 2, (down - height) // 2
    shapes = image.width * height, image.height * width  # equal where the image has the wanted shape
    if max(shapes) > LONGEST * min(shapes):  # enlarged as a whole, it could be of any size
        x, y = image.width / across, image.height / down
        right, bottom = min((left + width) * x, image.width), min((top + height) * y, image.height)
        return image.resize((width, height), Image.Resampling.LANCZOS, box=(left * x, top * y, right, bottom))
    return _scaled(image, down, across).crop((left, top, left + width, top + height))


def _padded(image: "Image.Image", height: int, width: int, background: tuple[int, int, int]) -> "Image.Image":
    from PIL import Image

    scale = min(width / image.width, height / image.height)
    inner = _scaled(image, *(max(1, round(side * scale)) for side in (image.height, image.width)))
    ground = Image.new("RGB", (width, height), background).convert(image.mode)
    ground.paste(inner, ((width - inner.width) // 2, (height - inner.height) // 2))
    return ground


def _scaled(image: "Image.Image", height: int, width: int) -> "Image.Image":
    from PIL import Image

    if image.size == (width, height):
        return image
    return image.resize((width, height), Image.Resampling.LANCZOS)

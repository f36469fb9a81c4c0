"""Heights and widths: a square is one number and every other size [height, width], as settings and files write them.

Padding is what the network sees around an image: one number where it is the same on all sides, else [top, bottom, left,
right]; "auto" leaves it to the network.
"""

from collections.abc import Sequence

Size = tuple[int, int]  # height, width
Padding = int | str | list[int]  # as a setting
AUTO = "auto"
LEAST, MOST = 4, 1024  # pixels of a side
MOST_PADDING = 64  # on a side


def pair(size: int | Sequence[int]) -> Size:
    """(height, width) of one number for a square, or of two."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def short(numbers: Sequence[int]) -> int | list[int]:
    """As a file has a size or a padding: one number where all are alike."""
    return numbers[0] if len(set(numbers)) == 1 else list(numbers)


def in_words(size: int | Sequence[int]) -> str:
    """48×32: height × width."""
    return "{}×{}".format(*pair(size))


def sides(padding: int | str | Sequence[int]) -> tuple[int, int, int, int]:
    """Pixels on top, at the bottom, on the left and on the right.

    Raises:
        ValueError: it is no padding, or "auto", which says nothing before there is a network.
    """
    if padding == AUTO:
        raise ValueError("padding=auto is settled by the network of a run: give pixels")
    numbers: list = [padding] * 4 if isinstance(padding, int) else list(padding)
    if len(numbers) != 4 or not all(isinstance(number, int) for number in numbers):
        raise ValueError(f"padding={padding} must be pixels for all sides, auto, or [top,bottom,left,right]")
    if min(numbers) < 0:
        raise ValueError(f"padding={padding} must be 0 or more pixels")
    top, bottom, left, right = numbers
    return top, bottom, left, right


def padded(size: int | Sequence[int], padding: int | Sequence[int]) -> Size:
    """(height, width) that the network sees of images of a size."""
    (height, width), (top, bottom, left, right) = pair(size), sides(padding)
    return height + top + bottom, width + left + right


def check_size(size: int | Sequence[int]) -> None:
    """Raise `ValueError` for an `image_size` that images cannot have here."""
    if not isinstance(size, int) and len(size) != 2:
        raise ValueError(f"image_size={size} must be the side of a square, or [height,width]")
    if min(pair(size)) < LEAST:
        raise ValueError(f"image_size={size} is too small: give at least {LEAST} pixels")
    if max(pair(size)) > MOST:
        raise ValueError(f"image_size={size} is too large: give at most {MOST} pixels")

"""From an array of any usual kind to the pixels that a network sees: uint8 (N, C, H, W).

Grey images are N×H×W; colour is N×H×W×C or N×C×H×W, told apart by which side is a number of channels. uint8 is taken as
it is; of other numbers only their owner knows what is black and what is white, so that a range must be given.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from diffusion.data.shapes import LEAST, MOST
from diffusion.system.errors import UserError

CHANNELS = (1, 3)  # grey, colour
AT_ONCE = 2**24  # values that are converted at a time, so that a large array is not in memory twice
LAYOUTS = ("hwc", "chw")


def pixels(array: np.ndarray, what: str, value_range: Sequence[float] | None, layout: str | None) -> Tensor:
    """The images of an array as uint8 (N, C, H, W).

    Args:
        array: (N, H, W), (N, H, W, C) or (N, C, H, W), of numbers.
        what: it is, for messages: "data.train=FILE, its array x".
        value_range: [value of black, value of white]; None takes uint8 from 0 to 255 and refuses the others.
        layout: "hwc" or "chw"; None finds it out.

    Raises:
        UserError: the array holds no images, or the two settings are missing or do not fit it.
    """
    if array.dtype.kind not in "uifb":
        raise UserError(
            f"{what} holds values of the kind {array.dtype}: images are uint8, or numbers with data.range=…."
        )
    array = channels_first(array, what, layout)
    low, high = black_and_white(array, what, value_range)
    if (low, high) == (0, 255) and array.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(array))
    found = np.empty(array.shape, np.uint8)
    step = max(1, AT_ONCE // max(1, array[0].size))
    for start in range(0, len(array), step):
        values = (array[start : start + step].astype(np.float64) - low) * (255 / (high - low))
        found[start : start + step] = values.round().clip(0, 255)
    return torch.from_numpy(found)


def channels_first(array: np.ndarray, what: str, layout: str | None) -> np.ndarray:
    """An array of images as (N, C, H, W); arguments and errors as in `pixels`."""
    shape = " × ".join(map(str, array.shape)) or "a single number"
    if layout not in (None, *LAYOUTS):
        raise UserError(f"data.layout={layout} must be hwc (height, width, channels) or chw; null finds it out.")
    if not len(array.shape) or not array.size:
        raise UserError(f"{what} is {shape}: it holds no images.")
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4:
        last, second = array.shape[3] in CHANNELS, array.shape[1] in CHANNELS
        if layout is None and last and second:
            raise UserError(
                f"{what} is {shape}, which can be read in two ways: add data.layout=hwc or data.layout=chw."
            )
        if layout == "hwc" or (layout is None and last):
            array = array.transpose(0, 3, 1, 2)
    else:
        side = round(np.sqrt(array.shape[-1]))
        flat = array.ndim == 2 and side >= LEAST and side**2 == array.shape[-1]
        advice = f", perhaps by x.reshape(-1, {side}, {side})" if flat else ""
        raise UserError(f"{what} is {shape}; images are N × H × W, N × H × W × C or N × C × H × W: reshape it{advice}.")
    if array.shape[1] not in CHANNELS:
        more = ": leave its transparency out" if 4 in (array.shape[1], array.shape[3]) else ""
        raise UserError(f"{what} is {shape}; its images must have 1 channel (grey) or 3 (colour){more}.")
    if min(array.shape[2:]) < LEAST:
        raise UserError(
            f"{what} is {shape}, so its images would have {array.shape[2]}×{array.shape[3]} pixels; at least "
            f"{LEAST} a side are needed (a single image is 1 × H × W × C)."
        )
    if max(array.shape[2:]) > MOST:
        raise UserError(
            f"{what} is {shape}, so its images would have {array.shape[2]}×{array.shape[3]} pixels; at most {MOST} a "
            "side can be learned here: make them smaller first."
        )
    return array


def black_and_white(array: np.ndarray, what: str, value_range: Sequence[float] | None) -> tuple[float, float]:
    """The values of black and white in an array; arguments and errors as in `pixels`."""
    if array.dtype == np.bool_:
        return 0, 1
    least, most = float(array.min()), float(array.max())
    if not np.isfinite([least, most]).all():
        raise UserError(f"{what} holds values that are infinite or no numbers: images have none.")
    reach = f"{what} holds {array.dtype} from {least:g} to {most:g}"
    if value_range is None:
        if array.dtype == np.uint8 and most > 1:
            return 0, 255
        guess = next((pair for pair in ([0, 1], [-1, 1], [0, 255]) if pair[0] <= least and most <= pair[1]), None)
        advice = f"data.range={guess}".replace(" ", "") if guess else "data.range=[BLACK,WHITE]"
        raise UserError(f"{reach}: say which values are black and white, by {advice} for example.")
    if len(value_range) != 2 or not value_range[0] < value_range[1]:
        raise UserError(
            f"data.range={list(value_range)} must be two numbers, those of black and of white, in this order."
        )
    low, high = value_range
    slack = 1e-3 * (high - low)  # of rounding
    if least < low - slack or most > high + slack:
        raise UserError(f"{reach}, which lies outside data.range=[{low:g},{high:g}]: give the range that it has.")
    return low, high

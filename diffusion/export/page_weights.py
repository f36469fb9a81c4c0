"""The weights of a model in fewer bytes: float32, float16, or int8 with one step for each row."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from diffusion.system.errors import UserError

FORMS = ("fp32", "fp16", "int8")
# Numbers below which a tensor is not rounded to int8: the first and the last layer, which are small, would make most of
# the error, the last alone nine tenths of it for the quickstart.
LEAST_ROUNDED = 4096


def stored(weights: Mapping[str, Tensor], form: str) -> dict[str, np.ndarray]:
    """The weights as they are written into a file.

    Vectors (biases, the weights of normalisations) are few and stay float32. In int8, row i of a large matrix or kernel
    of a convolution is step[i] times whole numbers from −127 to 127, rounded to the nearest; small ones stay float32.

    Args:
        weights: name → tensor of any shape.
        form: "fp32", "fp16" or "int8".

    Returns:
        name → array, contiguous; in int8 also NAME.step, float32 of (rows,), for each NAME that is int8.

    Raises:
        UserError: the form is no such one.
    """
    if form not in FORMS:
        raise UserError(f"weights={form} must be one of {', '.join(FORMS)}.")
    arrays: dict[str, np.ndarray] = {}
    for name, tensor in weights.items():
        values = np.ascontiguousarray(tensor.detach().float().cpu().numpy())
        if form == "fp32" or values.ndim < 2 or (form == "int8" and values.size < LEAST_ROUNDED):
            arrays[name] = values
        elif form == "fp16":
            arrays[name] = values.astype(np.float16)
        else:
            rows = values.reshape(len(values), -1)
            step = np.maximum(np.abs(rows).max(axis=1), 1e-30) / 127
            arrays[name] = np.rint(rows / step[:, None]).astype(np.int8).reshape(values.shape)
            arrays[f"{name}.step"] = step.astype(np.float32)
    return arrays

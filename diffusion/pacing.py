"""How long a run is, in steps or in time, and how its learning rate rises and falls."""

import math
import re

UNITS = {"s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0}


def total_steps(images: int, epochs: float | None, steps: int | None, batch_size: int, size: int) -> int:
    """Length of a run in optimizer steps; `ValueError` when it is not positive or given twice."""
    if steps is not None and epochs is not None:
        raise ValueError(f"steps={steps} and epochs={epochs} both set the length: give one of them")
    if steps is None:
        steps = math.ceil((images if epochs is None else epochs * size) / batch_size)
    if steps < 1:
        raise ValueError(f"steps={steps}: the run must have at least one step (see training.images, epochs, steps)")
    return steps


def budget_seconds(budget: str | float) -> float:
    """A time such as "90s", "4min" or "1.5h" in seconds; `ValueError` for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|sec|min|h)\s*", str(budget))
    if not found or float(found[1]) == 0:
        raise ValueError(f"budget={budget} must be a time with its unit, such as 90s, 4min or 1.5h")
    return float(found[1]) * UNITS[found[2]]


def steps_within(seconds: float, step: int, spent: float) -> int:
    """Steps that a run of so many seconds will have, if it goes on as fast as it went.

    Args:
        seconds: for the whole run.
        step: steps so far.
        spent: seconds so far.

    Returns:
        at least step + 1 while there is time left, else `step`: then the run is at its end.
    """
    if spent >= seconds:
        return step
    return max(step + 1, round(step * seconds / max(spent, 1e-9)))


def learning_rate_factor(step: int, total: int, warmup: float, decay: str) -> float:
    """What the learning rate of step 0 … total − 1 is multiplied with: a linear rise, then a fall towards 0."""
    rise = warmup * total
    if step < rise:
        return (step + 1) / (math.ceil(rise) + 1)
    if decay == "constant":
        return 1.0
    done = (step - rise) / (total - rise)
    return 1 - done if decay == "linear" else 0.5 * (1 + math.cos(math.pi * done))

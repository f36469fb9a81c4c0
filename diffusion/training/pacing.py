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


def budget_seconds(budget: str) -> float:
    """A time such as "90s", "4min" or "1.5h" in seconds; `ValueError` for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|sec|min|h)\s*", str(budget))
    if not found or float(found[1]) == 0:
        raise ValueError(f"budget={budget} must be a time with its unit, such as 90s, 4min or 1.5h")
    return float(found[1]) * UNITS[found[2]]


class Pace:
    """How many steps a run of so many seconds will have, found anew after every step from the speed so far.

    The first step after a start, which allocates memory and may compile, is left out of the speed; until the second is
    done, `total` is a guess.

    Args:
        seconds: for the whole run.
        step: steps that were done before this start.
        guess: a total.
    """

    def __init__(self, seconds: float, step: int, guess: int) -> None:
        self.seconds, self.first, self.total = seconds, step + 1, max(guess, step + 3)
        self.spent_before = 0.0

    def steps(self, step: int, spent: float) -> int:
        """The total, as it looks after `step` steps in `spent` seconds; `step` itself once the time is spent."""
        if spent >= self.seconds:
            return step
        if step <= self.first:
            self.spent_before = spent
        else:
            duration = (spent - self.spent_before) / (step - self.first)
            self.total = step + round((self.seconds - spent) / max(duration, 1e-9))
        self.total = max(self.total, step + 1)
        return self.total


def learning_rate_factor(step: int, total: int, warmup: float, decay: str) -> float:
    """What the learning rate of step 0 … total − 1 is multiplied with: a linear rise, then a fall towards 0."""
    rise = warmup * total
    if step < rise:
        return (step + 1) / (math.ceil(rise) + 1)
    if decay == "constant":
        return 1.0
    done = (step - rise) / (total - rise)
    return 1 - done if decay == "linear" else 0.5 * (1 + math.cos(math.pi * done))

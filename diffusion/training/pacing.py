"""How long a run is in time."""

import re

UNITS = {"s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0}


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
        seconds: for the whole run; None where its length is given otherwise, and `guess` stands.
        step: steps that were done before this start.
        guess: a total.
    """

    def __init__(self, seconds: float | None, step: int, guess: int) -> None:
        self.seconds, self.first = seconds, step + 1
        self.total = guess if seconds is None else max(guess, step + 3)
        self.spent_before = 0.0

    def steps(self, step: int, spent: float) -> int:
        """The total, as it looks after `step` steps in `spent` seconds; `step` itself once the time is spent."""
        if self.seconds is None:
            return self.total
        if spent >= self.seconds:
            return step
        if step <= self.first:
            self.spent_before = spent
        else:
            duration = (spent - self.spent_before) / (step - self.first)
            self.total = step + round((self.seconds - spent) / max(duration, 1e-9))
        self.total = max(self.total, step + 1)
        return self.total

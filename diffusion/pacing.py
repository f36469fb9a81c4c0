"""How long a run is, and how its learning rate rises and falls."""

import math


def total_steps(images: int, epochs: float | None, steps: int | None, batch_size: int, size: int) -> int:
    """Length of a run in optimizer steps; `ValueError` when it is not positive or given twice."""
    if steps is not None and epochs is not None:
        raise ValueError(f"steps={steps} and epochs={epochs} both set the length: give one of them")
    if steps is None:
        steps = math.ceil((images if epochs is None else epochs * size) / batch_size)
    if steps < 1:
        raise ValueError(f"steps={steps}: the run must have at least one step (see training.images, epochs, steps)")
    return steps


def learning_rate_factor(step: int, total: int, warmup: float, decay: str) -> float:
    """What the learning rate of step 0 … total − 1 is multiplied with: a linear rise, then a fall towards 0."""
    rise = warmup * total
    if step < rise:
        return (step + 1) / (math.ceil(rise) + 1)
    if decay == "constant":
        return 1.0
    done = (step - rise) / (total - rise)
    return 1 - done if decay == "linear" else 0.5 * (1 + math.cos(math.pi * done))

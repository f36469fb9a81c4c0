"""The scores of several samples, drawn with different seeds, as one: their means, and how far they lie apart."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from diffusion.records.results import Scores


def average(values: Sequence[Any]) -> Any:
    """Scores of several seeds → their mean, entry by entry; None where one is missing, texts from the first."""
    first = values[0]
    if any(value is None for value in values):
        return None
    if isinstance(first, dict):
        return {key: average([value[key] for value in values]) for key in first}
    if isinstance(first, list):
        return [average(entries) for entries in zip(*values, strict=False)]
    if isinstance(first, bool | str):
        return first
    mean = float(np.mean(values))
    return int(mean) if isinstance(first, int) and mean.is_integer() else mean


def over_seeds(several: list[Scores]) -> Scores:
    """Scores of independent samples of equal n as one: means, with the standard deviations (n − 1) under "seeds"."""
    if len(several) == 1:
        return several[0]
    result = average(several)
    result["protocol"]["seeds"] = f"means over {len(several)} samples with different seeds"
    result["seeds"] = {"count": len(several)}
    flat = [flattened(scores) for scores in several]
    for name in flat[0]:
        values = [scores.get(name) for scores in flat]
        if None not in values:
            result["seeds"][name] = float(np.std(values, ddof=1))  # type: ignore[arg-type]
    return result


def flattened(scores: Scores) -> dict[str, float]:
    """The scores that are one number each, with dotted names for those one level down."""
    inner = {
        f"{group}.{name}": value
        for group in ("memorisation", "classification_accuracy")
        for name, value in (scores.get(group) or {}).items()
    }
    return {name: value for name, value in {**scores, **inner}.items() if isinstance(value, float)}

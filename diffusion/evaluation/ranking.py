"""Which of two states of a run is the better one, by any of its scores.

A score counts as the report's column "better" says: a lower or a higher value, or the one nearer to that of real test
images (Inception Score, precision, …: more than real images have is no better than less).
"""

from diffusion.evaluation.report import METRICS, Metric, value_of
from diffusion.records.results import Scores

HELD_OUT_LOSS, FID = "held_out/loss", "score/fid"
BY_NAME = {f"score/{metric.key}": metric for metric in METRICS}
NAMES = (*BY_NAME, HELD_OUT_LOSS)  # as in TensorBoard
WORDS = {
    "lower": "lower is better",
    "higher": "higher is better",
    "as real": "the nearer to real test images the better",
}


def direction(name: str) -> str:
    """In words, for which values of a score a run is better."""
    better = "lower" if name == HELD_OUT_LOSS else BY_NAME[name].better
    return WORDS.get(better, f"the nearer to {better} the better")


def badness(name: str, scores: Scores) -> float | None:
    """A number that is the smaller, the better a score is.

    Args:
        name: one of the scores in `NAMES`.
        scores: what `Scorer.score` gave.

    Returns:
        the number, in the score's own unit; None where this score, or the one of real images, could not be had.
    """
    metric: Metric = BY_NAME[name]
    value, real = value_of(scores, metric.key), value_of(scores["real"], metric.key)
    if value is None:
        return None
    if metric.better == "lower":
        return float(value)
    if metric.better == "higher":
        return -float(value)
    aim = real if metric.better == "as real" else float(metric.better)
    return None if aim is None else abs(float(value) - float(aim))

"""Guidance that is chosen after training, on the finished model.

The better a model, the less guidance it needs, and no rule knows the best scale exactly. So the averaged weights draw
a few hundred images with each of a few scales, all from the same noise, so that chance is mostly the same in all of
them. Their FID is taken against held-out images, and a parabola over log(scale) through the best and its neighbours
says which scale is taken.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from diffusion.data.images import Images
from diffusion.evaluation.metrics import Moments, frechet_distance
from diffusion.evaluation.reference import KEPT, Reference, extract_set
from diffusion.guidance import ClassifierFree
from diffusion.system import ranks
from diffusion.training import rule
from diffusion.training.monitor import Monitor

log = logging.getLogger("diffusion")
SCALE, INTERVAL = NAMES = ("guidance.scale", "guidance.interval")
RATIO, FURTHER = 1.25, 2  # between two scales; how many are tried beyond the first three
RATIO_OF_ENDS, GAIN = 1.5, 0.98  # between two ends of the interval; how much better another one must be
# Of the images seen in training, how many are drawn for each scale: no clock decides it, but for the longest time
# that a run whose length is a time may take. With fewer, in short runs, the FID preferred images that vary less.
SHARE, LEAST, MOST, LONGEST = 0.006, 360, 400, 60.0
OTHER = 7919  # seed of the noise: not that of the images that are scored
MANY_FEATURES = 512  # of which a few hundred images say too little


def begun(names: Sequence[str]) -> dict[str, Any] | None:
    """What a new run remembers, where these settings are to be chosen; None where there are none."""
    return {"settings": list(names), "step": None} if names else None


def opened(state: dict[str, Any]) -> dict[str, Any] | None:
    """The same of a checkpoint, which may hold anything."""
    found = state.get("tuned")
    settings, step = (found.get("settings"), found.get("step")) if isinstance(found, dict) else (None, None)
    names = [name for name in NAMES if isinstance(settings, list) and name in settings]
    return {"settings": names, "step": step if type(step) is int else None} if names else None


def tune(monitor: Monitor, names: Sequence[str], images: int, longest: float = math.inf) -> ClassifierFree | None:
    """The guidance that draws best, or None where nothing can be chosen; what was tried is in the log.

    Args:
        monitor: of the run; its model draws as before afterwards.
        names: settings to choose.
        images: seen in training.
        longest: seconds after which no more is tried.
    """
    model, n = monitor.model, min(MOST, int(SHARE * images))
    before = own = model.guidance
    why = ""
    if not isinstance(before, ClassifierFree) or isinstance(before.scale, Sequence):
        return None
    reference = monitor.reference if n >= LEAST else None
    if n < LEAST:
        why = "the training was too short"
    elif reference is None:
        why = "nothing here scores images (score.n=0)"
    elif len(reference.moments.mean) > MANY_FEATURES:
        why = f"a few hundred images say too little in {len(reference.moments.mean)} features"
    if reference is None or why:
        log.info("%s: not chosen anew, since %s.", given(before, names), why)
        return None
    if SCALE in names:  # not where an earlier choice ended, of a run that has been made longer
        before = replace(before, scale=rule.numbers(images).scale)
    start, tried = time.perf_counter(), dict[tuple[float, float | None], float]()
    judge = reference
    real = ranks.first_alone(lambda: held_out(judge))

    def score(guidance: ClassifierFree) -> float:
        model.guidance = guidance
        labels = model.labels(n)
        drawn = model.draw(monitor.sampler, n, labels, monitor.seed + OTHER, monitor.at_once, progress=True)
        return ranks.first_alone(lambda: fid(judge, real, Images(drawn, labels)))

    try:
        found = search(before, names, score, lambda: late(start, longest), tried)
    finally:
        model.guidance = own
    kind, seconds = "held-out" if held_out_is_of_use(judge) else "training", time.perf_counter() - start
    text = "%s: chosen in %.0f s by the FID of %d images each, from the same noise, against %s %s ones: %s."
    log.info(text, given(found, names), seconds, n, f"{real.n:,}", kind, in_words(tried))
    return found


def search(
    before: ClassifierFree,
    names: Sequence[str],
    score: Callable[[ClassifierFree], float],
    late: Callable[[], bool],
    tried: dict[tuple[float, float | None], float],
) -> ClassifierFree:
    """The guidance of the lowest score.

    Args:
        before: where the search begins.
        names: what may be changed.
        score: of a guidance, the lower the better.
        late: whether time is up.
        tried: takes (scale, end of the interval) → score.
    """

    def measured(guidance: ClassifierFree) -> float:
        key = guidance.scale, guidance.interval[1] if guidance.interval else None
        if key not in tried:
            tried[key] = score(guidance)  # type: ignore[index]
        return tried[key]  # type: ignore[index]

    best = found = before
    if SCALE in names:
        scale = float(before.scale)  # type: ignore[arg-type]
        on_grid, between = best_scale(lambda each: measured(replace(before, scale=each)), scale, late)
        best, found = replace(before, scale=on_grid), replace(before, scale=between)
    if INTERVAL in names and before.interval:
        low, high = before.interval
        for other in (high / RATIO_OF_ENDS, high * RATIO_OF_ENDS):
            if late():
                break
            changed = replace(best, interval=[low, float(f"{other:.2g}")])
            if measured(changed) < GAIN * measured(replace(best, interval=found.interval)):
                found = replace(found, interval=changed.interval)
    return found


def best_scale(score: Callable[[float], float], start: float, late: Callable[[], bool]) -> tuple[float, float]:
    """Of the scales start · RATIO^k the one of the lowest score, and the lowest point of a parabola through it and its
    neighbours over log(scale); that one itself where no neighbour on one side could be tried."""
    found: dict[int, float] = {}

    def at(k: int) -> float:
        return float(f"{start * RATIO**k:.3g}")

    for k in (0, -1, 1):
        found[k] = score(at(k))
    for _ in range(FURTHER):
        best = min(found, key=lambda k: found[k])
        further = next((k for k in (best - 1, best + 1) if k not in found), None)
        if further is None or late():
            break
        found[further] = score(at(further))
    best = min(found, key=lambda k: found[k])
    if best - 1 not in found or best + 1 not in found:
        return at(best), at(best)
    left, middle, right = (found[k] for k in (best - 1, best, best + 1))
    bend = left - 2 * middle + right
    shift = 0.5 * (left - right) / bend if bend > 0 else 0.0
    return at(best), float(f"{start * RATIO ** (best + shift):.3g}")


def in_words(tried: dict[tuple[float, float | None], float]) -> str:
    """What was tried, as "2.4 at scale 3 up to σ/α 2.9"."""
    ends = {key: "" if key[1] is None else f" up to σ/α {key[1]:g}" for key in tried}
    return ", ".join(f"{value:.3g} at scale {key[0]:g}{ends[key]}" for key, value in tried.items())


def late(start: float, longest: float) -> bool:
    """Whether the time since `start` is up, for all processes."""
    return ranks.shared(time.perf_counter() - start > longest)


def values(guidance: ClassifierFree, names: Sequence[str]) -> dict[str, Any]:
    """Settings by their names."""
    return {name: getattr(guidance, name.partition(".")[2]) for name in names}


def given(guidance: ClassifierFree, names: Sequence[str]) -> str:
    """Settings as one writes them."""
    return " ".join(f"{name}={value}" for name, value in values(guidance, names).items()).replace(", ", ",")


def held_out(reference: Reference) -> Moments:
    """Moments of test images; of the training images where there are too few of them."""
    return reference.real(KEPT).moments if held_out_is_of_use(reference) else reference.moments


def held_out_is_of_use(reference: Reference) -> bool:
    """Whether there are clearly more test images than features."""
    return len(reference.data.test) > 2 * len(reference.moments.mean)


def fid(reference: Reference, real: Moments, images: Images) -> float:
    """The FID of images against these real ones."""
    return frechet_distance(extract_set(reference.features, images, torch.arange(len(images))).moments, real)

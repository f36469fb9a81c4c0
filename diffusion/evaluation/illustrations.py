"""The pictures of a report: grid, nearest training images, classes, FID∞; as files and in TensorBoard."""

from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from diffusion.data.images import ImageFiles, Images
from diffusion.drawing.pictures import class_grid, save_picture, tile
from diffusion.evaluation import plots
from diffusion.evaluation.classes import class_scores
from diffusion.evaluation.scoring import Scorer
from diffusion.records.tracking import Tracker

SHOWN = 12  # pairs in a row


def illustrate(
    folder: Path,
    scorer: Scorer,
    images: Images | ImageFiles,
    scores: dict[str, Any],
    nearest: tuple[Tensor, Tensor] | None,
    tracker: Tracker | None = None,
    step: int = 0,
    suffix: str = "",
) -> list[tuple[str, str]]:
    """Draw all pictures of one set of images into the folder of the report.

    Args:
        scores, nearest: of these images; `scorer.score` gives the ones and leaves the others as `scorer.nearest`.
        tracker: takes the figures, too, at `step` of the training.
        suffix: of the file names, where a report has several sets.

    Returns:
        (file name, caption) of each.
    """
    first, labels = images.select(torch.arange(min(80, len(images))))
    save_picture(folder / f"grid{suffix}.png", class_grid(first, labels, scorer.data.class_names))
    made = [(f"grid{suffix}.png", "The first images, as they come")]
    figures: list[tuple[str, str, Figure]] = []
    if nearest is not None:
        caption = "Generated images over their nearest training images; numbers are distances of pixels in [0, 1]"
        figures.append(("neighbours", caption, neighbour_figure(scorer, images, *nearest)))
    if class_scores(scores):
        figures.append(("classes", "Each class, generated beside real", plots.class_bars(scores)))
    if scores["confusion"]:
        caption = "What the classifier recognises in the classes asked for"
        figures.append(("confusion", caption, plots.confusion(scores)))
    if scores["fid_fit"]:
        caption = "FID against 1/n, extrapolated to infinitely many images"
        figures.append(("fid_infinite", caption, plots.fid_fit(scores)))
    if scores.get("likelihood"):
        caption = "Where the bits of the likelihood go: those of one step of the process against its time"
        figures.append(("likelihood", caption, plots.bits_per_step(scores["likelihood"])))
    for name, caption, figure in figures:
        plots.save_figure(folder / f"{name}{suffix}.png", figure)
        made.append((f"{name}{suffix}.png", caption))
        if tracker is not None:
            tracker.image(f"score/{name}{suffix}", plots.pixels(figure), step)
    if tracker is not None:
        tracker.image(f"score/grid{suffix}", tile(first, 10), step)
    return made


def neighbour_figure(scorer: Scorer, images: Images | ImageFiles, distances: Tensor, indices: Tensor) -> Figure:
    """A few images and the most suspicious ones (nearest compared with their second neighbour), over their nearest."""
    suspicion = distances[:, 0] / distances[:, 1].clamp(min=1e-9)
    rows = []
    for title, chosen in (
        ("the first images", torch.arange(min(SHOWN, len(images)))),
        ("those that stand out most: smallest ratio of nearest to second nearest", suspicion.argsort()[:SHOWN]),
    ):
        nearest = scorer.data.train.select(indices[chosen, 0])[0]
        rows.append((title, images.select(chosen)[0], nearest, distances[chosen, 0].tolist()))
    return plots.neighbours(rows)

"""The figures of a report and of a sweep, each drawn from scores alone; PNG files, and pixels for TensorBoard."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from torch import Tensor

from diffusion.drawing.names import captions
from diffusion.drawing.pictures import tile
from diffusion.evaluation.classes import NAMED, class_scores, shares
from diffusion.evaluation.report import comparable
from diffusion.system.files import replacing

GENERATED, REAL = "tab:blue", "tab:orange"
BLOCKS = 100  # rows of a picture of a confusion matrix, at most
NAME_STYLE = {"family": "DejaVu Sans"}  # the font that `captions` looks into
CLASS_TITLES = {
    "class_accuracy": "accuracy",
    "class_fid": "FID per class, lower is better",
    "class_diversity": "diversity: distance of two images",
}


def save_figure(path: Path, figure: Figure) -> None:
    """Write a PNG."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)


def pixels(figure: Figure) -> Tensor:
    """The figure as uint8 (3, H, W)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return torch.from_numpy(np.asarray(canvas.buffer_rgba())[..., :3].copy()).permute(2, 0, 1)


def literal(text: str) -> str:
    """The text as Matplotlib shows it as it is: what stands between two dollars is no formula."""
    return text.replace("$", r"\$")


def confusion(scores: dict[str, Any]) -> Figure:
    """Classes asked for against classes recognised, of the generated images and of real ones.

    More than `NAMED` classes have numbers, more than `BLOCKS` are put together.
    """
    names = [literal(name) for name in captions(scores["class_names"])]
    both = {"generated": scores["confusion"], "real test images": scores["real"]["confusion"]}
    if len(names) > NAMED:
        return _many_confused(both)
    larger, longer = max(1.0, len(names) / 12), 0.09 * max(0, max(map(len, names)) - 12)  # than ten short names need
    figure = Figure(figsize=(11 * larger + 2 * longer, 5.4 * larger + longer), layout="constrained")
    for axes, (title, counts) in zip(figure.subplots(1, 2), both.items(), strict=True):
        share = shares(counts)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
        axes.set_title(f"{title}, % of each row")
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", **NAME_STYLE)
        axes.set_yticks(range(len(names)), names, **NAME_STYLE)
        axes.set_xlabel("recognised")
        axes.set_ylabel("asked for" if title == "generated" else "true class")
        for i, j in np.argwhere(share >= 0.5).tolist():
            axes.text(
                j, i, f"{share[i, j]:.0f}", ha="center", va="center", color="white" if share[i, j] > 50 else "black"
            )
    return figure


def _many_confused(both: dict[str, Any]) -> Figure:
    """The confusion of many classes as a picture alone, in which small shares are seen, too."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    for axes, (title, counts) in zip(figure.subplots(1, 2), both.items(), strict=True):
        number, per_block = len(counts), math.ceil(len(counts) / BLOCKS)
        edges = np.arange(0, number, per_block)
        blocks = np.add.reduceat(np.add.reduceat(np.array(counts, float), edges, axis=0), edges, axis=1)
        end = per_block * len(edges) - 0.5
        norm = PowerNorm(0.5, 0, 100)
        image = axes.imshow(shares(blocks), cmap="Blues", norm=norm, extent=(-0.5, end, end, -0.5))
        axes.set_title(title if per_block == 1 else f"{title}, by blocks of {per_block} classes")
        axes.set_xlabel("recognised, number of the class")
        axes.set_ylabel("asked for" if title == "generated" else "true class")
    figure.colorbar(image, ax=figure.axes, label="% of each row", ticks=[0, 1, 5, 20, 50, 100], shrink=0.8)
    return figure


def class_bars(scores: dict[str, Any]) -> Figure:
    """What each class scores, generated beside real; of more than `NAMED` classes, their scores in order."""
    shown, names = class_scores(scores), [literal(name) for name in captions(scores["class_names"])]
    longest, many = max(map(len, names)), len(names) > NAMED
    slanted = not many and longest * len(names) > 110  # which fit side by side
    figure = Figure(figsize=(9, (2.6 + 0.07 * longest * slanted) * len(shown)), layout="constrained")
    place = np.arange(len(names))
    for axes, name in zip(np.atleast_1d(figure.subplots(len(shown), 1)), shown, strict=True):
        for values, shift, colour, label in (
            (scores[name], -0.2, GENERATED, "generated"),
            (scores["real"][name], 0.2, REAL, "real test images"),
        ):
            heights = np.array(values or [None] * len(names), float)  # None becomes NaN, which draws nothing
            if many:
                axes.plot(np.sort(heights), ".-", color=colour, label=label, markersize=3, linewidth=1)
            else:
                axes.bar(place + shift, heights, 0.4, color=colour, label=label)
        axes.set_title(CLASS_TITLES[name])
        if many:
            axes.set_xlabel("classes, from the lowest to the highest")
            axes.set_ylim(bottom=0)
        elif slanted:
            axes.set_xticks(place, names, rotation=30, ha="right", rotation_mode="anchor", **NAME_STYLE)
        else:
            axes.set_xticks(place, names, **NAME_STYLE)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


def fid_fit(scores: dict[str, Any]) -> Figure:
    """FID against 1/n with the line whose end is FID∞."""
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.subplots()
    for one, colour, label in ((scores, GENERATED, "generated"), (scores["real"], REAL, "real test images")):
        fit = one["fid_fit"]
        if fit is None:
            continue
        inverse = np.array([0.0, *(1 / size for size in fit["sizes"])])
        axes.plot(inverse, fit["infinite"] + fit["slope"] * inverse, "--", color=colour, linewidth=1)
        axes.plot(inverse[1:], fit["distances"], "o", color=colour, label=f"{label}: FID∞ = {fit['infinite']:.3f}")
        axes.plot(0, fit["infinite"], "*", color=colour, markersize=12)
    sizes = (scores["fid_fit"] or scores["real"]["fid_fit"])["sizes"]
    axes.set_xticks([0, *(1 / size for size in sizes)], ["∞", *(f"{size:,}" for size in sizes)], fontsize=9)
    axes.set_xlabel("number of images n, at 1/n")
    axes.set_ylabel("FID")
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend()
    return figure


def bits_per_step(likelihood: dict[str, Any]) -> Figure:
    """Where the bits of the variational bound go: those of one step against its time."""
    curve, parts = likelihood["curve"], likelihood["parts"]
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.subplots()
    label = f"last step, to the grey levels: {parts['decoder']:.2f}"
    axes.loglog(curve["t"][:1], curve["bits"][:1], "*", color=REAL, markersize=12, label=label)
    axes.plot(
        curve["t"][1:], curve["bits"][1:], ".-", color=GENERATED, label=f"the others: {parts['steps']:.2f} in all"
    )
    axes.set_xlabel("time t, from the image (left) to noise")
    axes.set_ylabel("bits per dimension of one step")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(title=f"{likelihood['bits_per_dim']:.2f} bits per dimension")
    return figure


def neighbours(rows: Sequence[tuple[str, Tensor, Tensor, Sequence[float]]]) -> Figure:
    """Generated images over their nearest training images.

    Args:
        rows: (title, generated uint8 (k, C, H, W), nearest (k, C, H, W), distances (k,)).
    """
    figure = Figure(figsize=(10, 2.1 * len(rows)), layout="constrained")
    for axes, (title, generated, nearest, distances) in zip(
        np.atleast_1d(figure.subplots(len(rows), 1)), rows, strict=True
    ):
        picture = tile(torch.cat([generated, nearest]), len(generated), gap=1).permute(1, 2, 0).numpy()
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="equal")
        height, width = (side + 1 for side in generated.shape[-2:])
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_yticks([height / 2, 1.5 * height], ["generated", "nearest\ntraining image"])
        axes.set_xticks(
            [(i + 0.5) * width for i in range(len(generated))], [f"{value:.2f}" for value in distances], fontsize=8
        )
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return figure


def sweep_curves(jobs: Sequence[dict[str, Any]]) -> Figure | None:
    """Scores of a sweep's jobs against network evaluations per sampler, and against guidance scale.

    Args:
        jobs: metrics of the jobs, each with "settings" as `evaluate.py` writes them.

    Returns:
        the figure, or None where neither was swept.
    """
    done = [job for job in jobs if job.get("settings") and job.get("fid") is not None]
    rows = []
    for setting, swept in (("evaluations", "steps"), ("guidance", "guidance")):
        if len({job["settings"][swept] for job in done}) > 1:
            rows.append((setting, [name for name in CURVES[setting] if any(job.get(name) is not None for job in done)]))
    if not rows:
        return None
    columns = 1 + max(len(names) for _, names in rows)  # the last for the legend
    figure = Figure(figsize=(3.8 * columns - 0.6, 3.6 * len(rows)), layout="constrained")
    for i, (setting, names) in enumerate(rows):
        for j, name in enumerate(names):
            axes = figure.add_subplot(len(rows), columns, i * columns + j + 1)
            _curves(axes, done, setting, name)
        legend = figure.add_subplot(len(rows), columns, i * columns + len(names) + 1)
        legend.axis("off")
        legend.legend(*axes.get_legend_handles_labels(), loc="center left", fontsize=9, frameon=False)
    return figure


CURVES = {"evaluations": ("fid", "recall"), "guidance": ("fid", "inception_score", "accuracy", "recall")}
LABELS = {
    "fid": "FID",
    "recall": "recall",
    "inception_score": "Inception Score",
    "accuracy": "accuracy",
    "evaluations": "network evaluations per image",
    "guidance": "guidance scale",
}


def _curves(axes: Any, jobs: Sequence[dict[str, Any]], setting: str, name: str) -> None:
    """One score against one setting; a line for every combination of the rest, and real images as a level."""
    lines: dict[tuple[str, float], list[tuple[float, float]]] = {}
    rest = [other for other in ("checkpoint", "weights", "seed") if len({job["settings"][other] for job in jobs}) > 1]
    alike = len({(job["n"], comparable(job)) for job in jobs}) == 1
    for job in jobs:
        how = job["settings"]
        kind = ", ".join(
            [how["sampler"], *(how[other] if other == "weights" else f"{other} {how[other]}" for other in rest)]
        )
        kind += "" if alike else f", n = {job['n']}, {job['protocol']['scorer'][:30]}"
        held = how["guidance"] if setting == "evaluations" else how["steps"]
        if job.get(name) is not None:
            lines.setdefault((kind, held), []).append((how[setting], job[name]))
    kinds, values = (sorted({line[i] for line in lines}) for i in (0, 1))
    for (kind, held), points in sorted(lines.items()):
        style = ("-", "--", ":", "-.")[kinds.index(kind) % 4]  # a dash for each sampler, a colour for each value
        label = literal(f"{kind}, guidance {held:g}" if setting == "evaluations" else f"{kind}, {held:g} steps")
        colour = f"C{values.index(held) % 10}"
        axes.plot(*zip(*sorted(points), strict=True), "o", linestyle=style, color=colour, label=label, markersize=4)
    levels = {(job["real"][name], job["real"]["n"]) for job in jobs if job["real"].get(name) is not None}
    for level, n in sorted(levels):
        axes.axhline(level, linestyle=":", color="grey", label=f"real test images, n = {n}")
    mark = "" if alike else "\n(runs differ in n or protocol: not comparable)"
    axes.set_xlabel(LABELS[setting])
    axes.set_title(LABELS[name] + mark, fontsize=10)
    if setting == "evaluations":
        axes.set_xscale("log")
        counts = sorted({job["settings"]["evaluations"] for job in jobs})
        far = [count for i, count in enumerate(counts) if i == 0 or count > 1.2 * counts[i - 1]]  # labels with room
        axes.set_xticks(far, [f"{count:g}" for count in far])
        axes.minorticks_off()
    if name == "fid":
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
    axes.spines[["top", "right"]].set_visible(False)

"""The rule behind `auto`, fitted to trainings: prints the coefficients for diffusion/training/rule.py.

    python benchmarks/recipe.py runs.jsonl          the law of FID over images and parameters, and the best scales
    python benchmarks/recipe.py runs.jsonl --floor 0.1 --page   the same, into the table of docs/performance.md, too

Each line of the file, which benchmarks/recipe_runs.py writes, is one score of one training of `experiment=best`:
{"images": 31168, "width": 32, "fid": 0.91, "scale": 3.0}, with "batch" (else 64), "parameters" (else those of the
width), "high" (the end of the guidance's interval), "seed", "lr" and whatever else one notes. Of a training that was
scored with several scales the best one counts; lines that differ only in what else is noted count as such scores of
one training, too.
Two of the coefficients are given: the floor, which is the FID of as many real images as each score has drawn ones, and
the power of the parameters, β, of which short trainings say little. The fit is that of the logarithm of FID, so that a
tenth of a small FID weighs as much as a tenth of a large one.
"""

import argparse
import itertools
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import PAGE, compose, fill
from scipy.optimize import least_squares

from diffusion.evaluation.document import markdown_table
from diffusion.training.rule import BATCH, Law, useful

IMAGE = {"size": 28, "channels": 1, "padding": 0, "class_names": list("abcdefghij"), "sigma_data": 0.7}
STARTS = list(itertools.product((0.5, 1.0, 2.0), (0.5, 1.0), (0.25, 0.5, 1.0)))  # of the powers


def parameters(width: int) -> int:
    """Parameters of the network of `experiment=best` at a width."""
    from diffusion.config import automatic
    from diffusion.config.left_open import left_open
    from diffusion.config.resuming import plain

    config = plain(compose("train", "experiment=best", f"model.width={width}"))
    automatic.fill(config, left_open(config), width, BATCH, 1)
    return automatic.parameters(config, IMAGE, free=False)[width]


def read(path: Path) -> list[dict[str, Any]]:
    """The scores of a file, each with its batch and parameters."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise SystemExit(f"{path} cannot be read ({error.strerror}): give a file with one score a line.") from None
    rows = [row_of(line, f"{path}, line {number},") for number, line in enumerate(lines, start=1) if line.strip()]
    counts = {width: parameters(width) for width in {row["width"] for row in rows if "parameters" not in row}}
    return [{"batch": BATCH, "parameters": counts.get(row["width"]), "seed": 0, **row} for row in rows]


def row_of(line: str, place: str) -> dict[str, Any]:
    """The score of a line, or a sentence on what it lacks."""
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise SystemExit(f'{place} is no score: write it as {{"images": 31168, "width": 32, "fid": 0.91}}.')
    missing = [name for name in ("images", "width", "fid") if name not in row]
    if missing:
        raise SystemExit(f"{place} has no {', '.join(map(json.dumps, missing))}: add it, or leave the line out.")
    return row


def best(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each training, known by its images, width, batch, learning rate and seed, the score with the least FID.

    Rows that differ in anything else that is noted are merged, not only those of several scales.
    """
    trainings: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        trainings[row["images"], row["width"], row["batch"], row["seed"], row.get("lr", 0)].append(row)
    return [min(scores, key=lambda row: row["fid"]) for _, scores in sorted(trainings.items())]


def fitted(rows: Sequence[dict[str, Any]], floor: float, beta: float) -> Law:
    """The law of least squares in log(FID) with this floor and β; the others are kept positive by their logarithms."""
    images = np.array([useful(row["images"], row["batch"]) for row in rows])
    counts, fids = (np.array([row[name] for row in rows], float) for name in ("parameters", "fid"))

    def law(logs: np.ndarray) -> Law:
        a, alpha, gamma, b, d, delta = np.exp(logs)
        return Law(floor, a, alpha, gamma, b, beta, d, delta)

    def residuals(logs: np.ndarray) -> np.ndarray:
        return np.log(law(logs)(images, counts) / fids)  # type: ignore[arg-type]

    tries = []
    for alpha, gamma, delta in STARTS:
        size = float(np.min(fids)) / 3
        start = np.log([size, alpha, gamma, size, size, delta])
        tries.append(least_squares(residuals, start, loss="soft_l1", f_scale=0.1, bounds=(-9, 4)))
    found = min(tries, key=lambda each: each.cost)
    return Law(*(float(f"{value:.3g}") for value in law(found.x)))


def slope(rows: Sequence[dict[str, Any]]) -> str:
    """The best scales, as a power of the images: scale − 1 = s (images / 10⁵)^p."""
    known = [row for row in rows if row.get("scale", 0) > 1]
    if len({row["images"] for row in known}) < 2:
        return "Too few scales for a fit."
    x = np.log([row["images"] / 1e5 for row in known])
    power, level = np.polyfit(x, np.log([row["scale"] - 1 for row in known]), 1)
    values = {n: 1 + math.exp(level) * (n / 1e5) ** power for n in (15_000, 31_000, 76_000, 196_000, 500_000)}
    return "Best scales: " + ", ".join(f"{value:.2f} after {n:,} images" for n, value in values.items()) + "."


def table(rows: Sequence[dict[str, Any]], law: Law) -> str:
    """What was measured beside what the law says."""
    body = []
    for row in rows:
        said = law(useful(row["images"], row["batch"]), row["parameters"])
        cells = [f"{row['images']:,}", row["width"], row["batch"], row.get("scale", "–")]
        body.append([*map(str, cells), f"{row['fid']:.3f}", f"{said:.3f}", f"{100 * (said / row['fid'] - 1):+.0f} %"])
    return markdown_table(["images seen", "width", "batch", "scale", "FID", "by the law", "off by"], body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--floor", type=float, default=0.0, help="FID of as many test images, all classes alike")
    parser.add_argument("--beta", type=float, default=1.0, help="the power of the parameters")
    parser.add_argument("--page", action="store_true", help="write the table into docs/performance.md")
    given = parser.parse_args()
    scores = read(given.file)
    rows = best(scores)
    if len(counted := {row.get("n") for row in scores}) > 1:
        raise SystemExit(f"{given.file} holds FIDs of {sorted(map(str, counted))} images: one law is of one number.")
    if len(rows) < 7:
        raise SystemExit(f"{given.file} holds {len(rows)} trainings: six coefficients need at least seven.")
    if given.beta <= 0:
        raise SystemExit(f"--beta {given.beta:g} must be positive.")
    if not 0 <= given.floor < (least := min(row["fid"] for row in rows)):
        raise SystemExit(f"--floor {given.floor:g} must be below the least FID, {least:.3g}, and not negative.")
    law = fitted(rows, given.floor, given.beta)
    off = np.array([math.log(law(useful(r["images"], r["batch"]), r["parameters"]) / r["fid"]) for r in rows])
    coefficients = ", ".join(f"{name}={value:g}" for name, value in law._asdict().items())
    said = f"{len(rows)} trainings; the law is off by {100 * float(np.sqrt((off**2).mean())):.0f} % (root mean square)."
    print(f"LAW = Law({coefficients})\n{said}\n{slope(rows)}\n\n{table(rows, law)}")
    if given.page and not fill(PAGE, "recipe", "benchmarks/recipe.py", f"{said}\n\n{table(rows, law)}"):
        raise SystemExit(f"{PAGE} has no place for it.")


if __name__ == "__main__":
    main()

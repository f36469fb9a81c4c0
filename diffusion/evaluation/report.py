"""Scores for programs (metrics.json) and for people (report.md, with the grid beside it)."""

import json
from pathlib import Path
from typing import Any

from diffusion.files import replacing


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON so that a reader never sees half a file."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def summary(scores: dict[str, Any]) -> str:
    """The scores as a Markdown table, generated beside real."""
    real = scores["real"]
    where = "the whole test set" if real["whole_test_set"] else "test images"
    rows = [
        f"| | generated (n = {scores['n']:,}) | real: {where} (n = {real['n']:,}) |",
        "|---|---|---|",
        f"| FID, lower is better | {scores['fid']:.4f} | {real['fid']:.4f} |",
        f"| Inception Score | {_spread(scores)} | {_spread(real)} |",
    ]
    if scores["accuracy"] is not None:
        rows.append(f"| accuracy of the classes asked for | {scores['accuracy']:.4f} | {real['accuracy']:.4f} |")
    return "\n".join(rows)


def class_table(scores: dict[str, Any]) -> str:
    """Accuracy per class as a Markdown table, or "" without labels."""
    if scores["class_accuracy"] is None:
        return ""
    rows = ["| class | generated | real |", "|---|---|---|"]
    columns = zip(scores["class_names"], scores["class_accuracy"], scores["real"]["class_accuracy"], strict=True)
    for name, made, real in columns:
        rows.append(
            "| " + " | ".join([name, *("–" if value is None else f"{value:.3f}" for value in (made, real))]) + " |"
        )
    return "\n".join(rows)


def write_report(folder: Path, scores: dict[str, Any], extra: dict[str, Any], grid: str | None) -> None:
    """metrics.json and report.md in `folder`.

    Args:
        scores: from `score_images`.
        extra: what else programs may want to know, for example {"step": 1000, "overrides": [...]}.
        grid: name of a picture in the folder.
    """
    write_json(folder / "metrics.json", {"status": "finished", **extra, **scores})
    small = scores["n"] <= scores["protocol"]["features"]
    parts = ["# Scores", summary(scores)]
    if scores["real"]["whole_test_set"]:
        parts.append("There are fewer real test images than generated ones, so the real column is not at the same n.")
    if small:
        parts.append(f"**n is not larger than the {scores['protocol']['features']} features: this FID is unreliable.**")
    if grid:
        parts.append(f"![generated images]({grid})")
    table = class_table(scores)
    if table:
        parts += ["## Accuracy per class", table]
    parts += ["## Protocol", "\n".join(f"- {key}: {value}" for key, value in scores["protocol"].items())]
    with replacing(folder / "report.md") as temporary:
        temporary.write_text("\n\n".join(parts) + "\n")


def _spread(scores: dict[str, Any]) -> str:
    return f"{scores['inception_score']:.3f} ± {scores['inception_score_std']:.3f}"

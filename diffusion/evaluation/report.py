"""Scores for programs (metrics.json) and for people (report.md, and report.html with its pictures inside)."""

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from diffusion.system.files import replacing

Scores = dict[str, Any]


class Metric(NamedTuple):
    """A score as it is told: where it is found, its name, which way is better, digits, and whether n matters."""

    key: str
    name: str
    better: str
    digits: int = 3
    depends_on_n: bool = False


METRICS = (
    Metric("fid", "FID", "lower", 3, True),
    Metric("fid_infinite", "FID∞, extrapolated to infinite n", "lower"),
    Metric("kid", "KID × 1000, all pairs", "lower"),
    Metric("kid_subsets", "KID × 1000, mean over subsets", "lower"),
    Metric("inception_score", "Inception Score", "as real", 2, True),
    Metric("precision", "precision", "as real", 3, True),
    Metric("recall", "recall", "higher", 3, True),
    Metric("density", "density", "as real", 3, True),
    Metric("coverage", "coverage", "higher", 3, True),
    Metric("accuracy", "accuracy of the classes asked for", "higher"),
    Metric("diversity", "diversity within classes", "as real"),
    Metric("memorisation.nearest_distance", "distance to the nearest training image, median", "as real", 2),
    Metric("memorisation.nearer_than_real", "share nearer than 99 % of test images", "0.01", 4),
    Metric("memorisation.lonely_neighbour", "share with nearest < ½ second nearest", "as real", 4),
    Metric("memorisation.copies", "share of exact copies of training images", "0", 4),
    Metric("repeated", "share of images that repeat another of the set", "0", 4),
)
COMPARABLE = ("scorer", "preprocessing", "reference", "neighbours")  # of the protocol: what, with n, must be the same
SHORT = ("fid", "kid", "inception_score", "precision", "recall", "accuracy")


# ------------------------------------------------------------------------------------------------- numbers


def value_of(scores: Scores, key: str) -> Any:
    """A score by its dotted name; None where there is none."""
    for part in key.split("."):
        scores = scores.get(part) if isinstance(scores, dict) else None  # type: ignore[assignment]
    return scores


def number(scores: Scores, metric: Metric, seeds: Scores | None = None) -> str:
    """A score as text, with its spread: over the seeds where there are several, else the score's own."""
    value = value_of(scores, metric.key)
    if value is None:
        return "–"
    scale = 1000 if metric.key.startswith("kid") else 1
    text = f"{value * scale:.{metric.digits}f}"
    spread = scores.get(f"{metric.key}_std") if seeds is None else scores.get("seeds", {}).get(metric.key)
    return text if spread is None else f"{text} ± {spread * scale:.{metric.digits}f}"


def ratio(scores: Scores, metric: Metric) -> str:
    """Generated divided by real, where both are at the same n and it says something."""
    made, real = value_of(scores, metric.key), value_of(scores["real"], metric.key)
    if made is None or real is None or real <= 0 or made < 0:
        return ""
    if metric.depends_on_n and scores["real"]["whole_test_set"]:
        return "†"
    return f"{made / real:.3g}"


def comparison(sets: Sequence[Scores], names: Sequence[str], only: Sequence[str] = ()) -> tuple[list[str], list[list]]:
    """Heads and rows of one table for all sets of images, each beside real images at its n.

    Args:
        sets: from `Scorer.score`.
        names: one for each.
        only: keys of the scores to show; all that anybody has by default.
    """
    heads = ["score", "better"]
    for scores, name in zip(sets, names, strict=True):
        mark = " †" if scores["n"] != sets[0]["n"] else ""
        heads += [f"{name}, n = {scores['n']:,}{mark}"]
        if _last_of_its_n(sets, scores):
            real = scores["real"]
            heads += [f"real{' (whole test set)' if real['whole_test_set'] else ''}, n = {real['n']:,}{mark}"]
    if len(sets) == 1:
        heads.append("generated / real")
    rows = []
    for metric in METRICS:
        if (only and metric.key not in only) or all(value_of(scores, metric.key) is None for scores in sets):
            continue
        row = [metric.name, metric.better]
        for scores in sets:
            seeds, times = scores.get("seeds"), ratio(scores, metric)
            inside = f" ({times}{'' if times == '†' else '×'})" if times and len(sets) > 1 else ""
            row.append(number(scores, metric, seeds) + inside)
            if _last_of_its_n(sets, scores):
                row.append(number(scores["real"], metric, seeds))
        if len(sets) == 1:
            row.append(ratio(sets[0], metric))
        rows.append(row)
    return heads, rows


def _last_of_its_n(sets: Sequence[Scores], scores: Scores) -> bool:
    """Whether the column of real images for this n comes after these scores."""
    same = [other for other in sets if other["n"] == scores["n"]]
    return same[-1] is scores


def summary(sets: Sequence[Scores], names: Sequence[str] = ("generated",)) -> str:
    """The main scores as a Markdown table."""
    return markdown_table(*comparison(sets, names, SHORT))


# ---------------------------------------------------------------------------------------------- the document


@dataclass
class Block:
    """A piece of a report: a heading, a text, a table (heads and rows), a list, or a picture in the folder."""

    kind: str
    text: str = ""
    rows: Sequence[Sequence[Any]] = ()


def report_blocks(sets: Sequence[Scores], names: Sequence[str], pictures: Sequence[tuple[str, str]]) -> list[Block]:
    """The report, piece by piece.

    Args:
        sets, names: as in `comparison`.
        pictures: (file name, caption), all in the report's folder.
    """
    blocks = [Block("heading", "Scores"), _table(*comparison(sets, names))]
    if len(sets) > 1:
        blocks.append(Block("text", "In brackets: generated divided by real, at the same n."))
    if any(scores["n"] != sets[0]["n"] for scores in sets):
        blocks.append(
            Block(
                "text",
                "† Another n than in the first column. FID, Inception Score, precision, recall, density and coverage "
                "depend on n: compare such a column with the real images at its own n alone.",
            )
        )
    for scores, name in zip(sets, names, strict=True):
        prefix = f"{name}: " if len(sets) > 1 else ""
        blocks += [Block("text", prefix + note) for note in scores["notes"]]
        if scores.get("seeds"):
            text = f"{prefix}± is the standard deviation over {scores['seeds']['count']} sampling seeds."
            blocks.append(Block("text", f"{text} The images shown are those of the first."))
        elif scores.get("inception_score_std") is not None:
            splits, subsets = (scores["protocol"][key] for key in ("inception_score_splits", "kid_subsets"))
            text = (
                f"{prefix}± of the Inception Score is the standard deviation over its {splits} splits, that of KID over"
            )
            blocks.append(Block("text", f"{text} {subsets}."))
    blocks += [Block("picture", caption, [[file]]) for file, caption in pictures]
    for scores, name in zip(sets, names, strict=True):
        blocks += _details(scores, f" of {name}" if len(sets) > 1 else "")
    return blocks


def _details(scores: Scores, of: str) -> list[Block]:
    """Likelihood, spread, classes, the classifier trained on samples, and the protocol of one set."""
    blocks: list[Block] = []
    real = scores["real"]
    if scores.get("likelihood"):
        blocks += _likelihood(scores["likelihood"], of)
    if scores.get("classification_accuracy"):
        found = scores["classification_accuracy"]
        blocks += [
            Block("heading", f"Classification accuracy score{of}"),
            Block(
                "text",
                f"A classifier trained only on the {scores['n']:,} generated images puts {found['generated']:.4f} of "
                f"the real test images into their class; one trained on {found['real_n']:,} real training images "
                f"{found['real']:.4f}.",
            ),
        ]
    if scores.get("spread"):
        spread, other = scores["spread"], real.get("spread")
        same = other if other and other["n"] == spread["n"] else None
        heads = ["score", f"generated, {spread['subsets']} subsets of {spread['n']:,}"]
        heads += [f"real, {same['subsets']} subsets of {same['n']:,}"] if same else []
        rows = []
        for metric in METRICS:
            if metric.key in spread:
                columns = [spread, same] if same else [spread]
                rows.append([metric.name, *(_plus_minus(one.get(metric.key), metric) for one in columns)])
        blocks += [Block("heading", f"Spread over disjoint subsets{of}"), _table(heads, rows)]
        blocks.append(Block("text", "Mean ± standard deviation. Scores that depend on n are those of the smaller n."))
    names = {"class_accuracy": "accuracy", "class_fid": "FID", "class_diversity": "diversity"}
    shown = [key for key in names if any(value is not None for value in scores[key] or ())]
    if shown:
        heads = ["class", *(f"{names[key]}{side}" for key in shown for side in ("", " of real"))]
        rows = [
            [name, *(_entry(one.get(key), k) for key in shown for one in (scores, real))]
            for k, name in enumerate(scores["class_names"])
        ]
        blocks += [Block("heading", f"Classes{of}"), _table(heads, rows)]
    blocks.append(Block("heading", f"Protocol{of}"))
    blocks.append(Block("list", rows=[[key, value] for key, value in scores["protocol"].items()]))
    return blocks


def _likelihood(found: Scores, of: str) -> list[Block]:
    """The bound of the model beside what simple codes need, and how it was measured."""
    parts, codes = found["parts"], found["reference"]
    rows = [
        ["bits per dimension (bound)", bits_text(found)],
        ["– what is left of the image at t = 1", f"{parts['prior']:.4f}"],
        ["– the steps", f"{parts['steps']:.3f}"],
        ["– the last step, to the grey levels", f"{parts['decoder']:.3f}"],
        ["no network: histogram of the grey levels", bits_text(codes["histogram"])],
        ["no network: PNG", bits_text(codes["png"])],
    ]
    text = "Lower is better; all three on the same images. ± is the standard error over images."
    protocol = [[key, value] for key, value in found["protocol"].items()]
    return [
        Block("heading", f"Likelihood of real test images{of}"),
        _table(["", f"{found['n']:,} test images"], rows),
        Block("text", f"{text} The bound lies above the model's −log₂ p, so the model is at least as good as it says."),
        Block("list", rows=protocol),
    ]


def bits_text(found: Scores) -> str:
    """Bits per dimension with their standard error, as text."""
    error = found["standard_error"]
    return f"{found['bits_per_dim']:.3f}" + ("" if error is None else f" ± {error:.3f}")


def _table(heads: list[str], rows: list[list]) -> Block:
    return Block("table", rows=[heads, *rows])


def _entry(values: list | None, k: int) -> str:
    return "–" if values is None or values[k] is None else f"{values[k]:.3f}"


def _plus_minus(pair: list[float] | None, metric: Metric) -> str:
    scale = 1000 if metric.key.startswith("kid") else 1
    return "–" if pair is None else f"{pair[0] * scale:.{metric.digits}f} ± {pair[1] * scale:.{metric.digits}f}"


def markdown_table(heads: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def as_markdown(blocks: Sequence[Block]) -> str:
    """The report as Markdown, with pictures by their file names."""
    parts: list[str] = []
    for block in blocks:
        if block.kind == "heading":
            parts.append(f"{'##' if parts else '#'} {block.text}")
        elif block.kind == "table":
            parts.append(markdown_table(block.rows[0], block.rows[1:]))
        elif block.kind == "list":
            parts.append("\n".join(f"- {key}: {value}" for key, value in block.rows))
        elif block.kind == "picture":
            parts.append(f"![{block.text}]({block.rows[0][0]})\n\n*{block.text}*")
        else:
            parts.append(block.text)
    return "\n\n".join(parts) + "\n"


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem; border-bottom: 1px solid #ddd; text-align: right; }
th { border-bottom: 2px solid #888; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1.5rem 0; } img { max-width: 100%; } figcaption { color: #666; }
.wide { overflow-x: auto; }
dt { font-weight: 600; } dd { margin: 0 0 .4rem 1rem; overflow-wrap: anywhere; }
"""


def as_html(blocks: Sequence[Block], folder: Path) -> str:
    """The report as one HTML page that needs no other file: the pictures in `folder` are inside it."""
    parts: list[str] = []
    for block in blocks:
        text = html.escape(block.text)
        if block.kind == "heading":
            level = 2 if parts else 1
            parts.append(f"<h{level}>{text}</h{level}>")
        elif block.kind == "table":
            lines = [
                "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in row) + "</tr>"
                for tag, row in zip(["th"] + ["td"] * (len(block.rows) - 1), block.rows, strict=True)
            ]
            parts.append('<div class="wide"><table>\n' + "\n".join(lines) + "\n</table></div>")
        elif block.kind == "list":
            rows = (f"<dt>{html.escape(str(key))}</dt><dd>{html.escape(str(value))}</dd>" for key, value in block.rows)
            parts.append("<dl>" + "".join(rows) + "</dl>")
        elif block.kind == "picture":
            data = base64.b64encode((folder / block.rows[0][0]).read_bytes()).decode()
            image = f'<img alt="{text}" src="data:image/png;base64,{data}">'
            parts.append(f"<figure>{image}<figcaption>{text}</figcaption></figure>")
        else:
            parts.append(f"<p>{text}</p>")
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Scores</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n'
        f"<body>\n{body}\n</body></html>\n"
    )


# --------------------------------------------------------------------------------------------------- files


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON so that a reader never sees half a file."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def read_metrics(path: Path) -> dict[str, Any] | None:
    """What `write_json` wrote as metrics.json; None where there is none, or it is damaged."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def metrics_of_jobs(folder: Path) -> list[dict[str, Any]]:
    """What the jobs of a sweep wrote, in the order of their folders' names, but what is damaged."""
    return [found for path in sorted(folder.glob("*/metrics.json")) if (found := read_metrics(path)) is not None]


def fingerprint(content: Any) -> str:
    """A short text that is another one for other content, of what JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def finished(folder: Path, **same: Any) -> dict[str, Any] | None:
    """The metrics of a folder in which a job has come to its end that had all of `same`, else None."""
    found = read_metrics(folder / "metrics.json")
    if found is None or found.get("status") != "finished":
        return None
    return found if all(found.get(name) == value for name, value in same.items()) else None


def write_report(
    folder: Path,
    sets: Sequence[Scores],
    extra: dict[str, Any],
    pictures: Sequence[tuple[str, str]] = (),
    names: Sequence[str] = ("generated",),
) -> None:
    """metrics.json, report.md and report.html in `folder`.

    Args:
        sets, names: as in `comparison`. The first set's scores are the top level of metrics.json; where there are
            more, all of them are also listed under "sets".
        extra: what else programs may want to know, for example {"step": 1000, "overrides": [...]}.
        pictures: (file name, caption), all in the folder.
    """
    several = {"sets": [{"name": name, **scores} for name, scores in zip(names, sets, strict=True)]}
    write_json(
        folder / "metrics.json",
        {"status": "finished", **extra, **sets[0], **(several if len(sets) > 1 else {})},
    )
    blocks = report_blocks(sets, names, pictures)
    for name, text in (("report.md", as_markdown(blocks)), ("report.html", as_html(blocks, folder))):
        with replacing(folder / name) as temporary:
            temporary.write_text(text)

"""Scores for programs (metrics.json) and for people (report.md, and report.html with its pictures inside)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from diffusion.evaluation.classes import class_blocks
from diffusion.evaluation.document import Block, as_html, as_markdown, markdown_table, table
from diffusion.evaluation.scale import ENDS, in_short
from diffusion.records.results import Scores, write_json
from diffusion.system.files import replacing


class Metric(NamedTuple):
    """A score as it is told: where it is found, its name, which way is better, digits, and whether n matters."""

    key: str
    name: str
    better: str
    digits: int = 3
    depends_on_n: bool = False

    def text(self, value: float | None, spread: float | None = None) -> str:
        """A value of this score, and its spread where it has one; KID is told times 1000."""
        if value is None:
            return "–"
        scale = 1000 if self.key.startswith("kid") else 1
        numbers = (value,) if spread is None else (value, spread)
        return " ± ".join(f"{number * scale:.{self.digits}f}" for number in numbers)


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
COMPARABLE = ("scorer", "preprocessing", "reference", "neighbours")
SHORT = ("fid", "kid", "inception_score", "precision", "recall", "accuracy")


# ------------------------------------------------------------------------------------------------- numbers


def value_of(scores: Scores, key: str) -> Any:
    """A score by its dotted name; None where there is none."""
    for part in key.split("."):
        scores = scores.get(part) if isinstance(scores, dict) else None  # type: ignore[assignment]
    return scores


def comparable(scores: Scores) -> str:
    """What of the protocol must be the same, with n, for scores to compare."""
    protocol = scores.get("protocol") or {}
    return "; ".join(str(protocol[key]) for key in COMPARABLE if key in protocol)


def number(scores: Scores, metric: Metric, seeds: Scores | None = None) -> str:
    """A score as text, with its spread: over the seeds where there are several, else the score's own."""
    spread = scores.get(f"{metric.key}_std") if seeds is None else scores.get("seeds", {}).get(metric.key)
    return metric.text(value_of(scores, metric.key), spread)


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
        sets, names: what `Scorer.score` gave, and a name for each.
        only: keys of the scores to show; all that anybody has by default.
    """
    heads = ["score", "better"]
    last = {scores["n"]: scores for scores in sets}  # of each n; real images come after it
    for scores, name in zip(sets, names, strict=True):
        mark = " †" if scores["n"] != sets[0]["n"] else ""
        heads += [f"{name}, n = {scores['n']:,}{mark}"]
        if scores is last[scores["n"]]:
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
            if scores is last[scores["n"]]:
                row.append(number(scores["real"], metric, seeds))
        if len(sets) == 1:
            row.append(ratio(sets[0], metric))
        rows.append(row)
    return heads, rows


def summary(sets: Sequence[Scores], names: Sequence[str] = ("generated",)) -> str:
    """The main scores as a Markdown table, and under it the scale that they lie on."""
    line = f"\n{in_short(sets[0]['scale'])}" if sets[0].get("scale") else ""
    return markdown_table(*comparison(sets, names, SHORT)) + line


# ---------------------------------------------------------------------------------------------- the document


def report_blocks(sets: Sequence[Scores], names: Sequence[str], pictures: Sequence[tuple[str, str]]) -> list[Block]:
    """The report, piece by piece.

    Args:
        sets, names: as in `comparison`.
        pictures: (file name, caption), all in the report's folder.
    """
    blocks = [Block("heading", "Scores"), table(*comparison(sets, names))]
    if len(sets) > 1:
        blocks.append(Block("text", "In brackets: generated divided by real, at the same n."))
    if any(scores["n"] != sets[0]["n"] for scores in sets):
        text = (
            "† Another n than in the first column. FID, Inception Score, precision, recall, density and coverage "
            "depend on n: compare such a column with the real images at its own n alone."
        )
        blocks.append(Block("text", text))
    for scores, name in zip(sets, names, strict=True):
        prefix = f"{name}: " if len(sets) > 1 else ""
        blocks += [Block("text", prefix + note) for note in scores["notes"]]
        if scores.get("seeds"):
            text = f"{prefix}± is the standard deviation over {scores['seeds']['count']} sampling seeds."
            blocks.append(Block("text", f"{text} The images shown are those of the first."))
        elif scores.get("inception_score_std") is not None:
            splits, subsets = (scores["protocol"][key] for key in ("inception_score_splits", "kid_subsets"))
            text = f"{prefix}± of the Inception Score is the standard deviation over its {splits} splits,"
            blocks.append(Block("text", f"{text} that of KID over {subsets}."))
    blocks += _scale(sets[0])
    blocks += [Block("picture", caption, [[file]]) for file, caption in pictures]
    for scores, name in zip(sets, names, strict=True):
        blocks += _details(scores, f" of {name}" if len(sets) > 1 else "")
    return blocks


def _scale(scores: Scores) -> list[Block]:
    """What real images score, and what images that nobody would want."""
    found = scores.get("scale")
    if not found:
        return []
    kinds = ("real", *ENDS)
    rows = [
        [metric.name, metric.better, *(metric.text(found[kind][metric.key]) for kind in kinds)]
        for metric in METRICS
        if any(found[kind].get(metric.key) is not None for kind in kinds)
    ]
    text = "Scores say something as far as these lie apart: test images, the same blurred, uniform noise, black images;"
    return [
        Block("heading", "The scale"),
        table(["score", "better", *kinds], rows),
        Block("text", f"{text} n = {found['n']:,} of each."),
    ]


def _details(scores: Scores, of: str) -> list[Block]:
    """Likelihood, spread, classes, the classifier trained on samples, and the protocol of one set."""
    blocks: list[Block] = []
    real = scores["real"]
    if scores.get("likelihood"):
        blocks += _likelihood(scores["likelihood"], of)
    if scores.get("classification_accuracy"):
        found = scores["classification_accuracy"]
        text = (
            f"A classifier trained only on the {scores['n']:,} generated images puts {found['generated']:.4f} of "
            f"the real test images into their class; one trained on {found['real_n']:,} real training images "
            f"{found['real']:.4f}."
        )
        blocks += [Block("heading", f"Classification accuracy score{of}"), Block("text", text)]
    if scores.get("spread"):
        spread, other = scores["spread"], real.get("spread")
        same = other if other and other["n"] == spread["n"] else None
        heads = ["score", f"generated, {spread['subsets']} subsets of {spread['n']:,}"]
        heads += [f"real, {same['subsets']} subsets of {same['n']:,}"] if same else []
        rows = []
        for metric in METRICS:
            if metric.key in spread:
                columns = [spread, same] if same else [spread]
                rows.append([metric.name, *(metric.text(*one.get(metric.key, [None])) for one in columns)])
        blocks += [Block("heading", f"Spread over disjoint subsets{of}"), table(heads, rows)]
        blocks.append(Block("text", "Mean ± standard deviation. Scores that depend on n are those of the smaller n."))
    blocks += class_blocks(scores, of)
    blocks.append(Block("heading", f"Protocol{of}"))
    blocks.append(Block("list", rows=list(scores["protocol"].items())))
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
    return [
        Block("heading", f"Likelihood of real test images{of}"),
        table(["", f"{found['n']:,} test images"], rows),
        Block("text", f"{text} The bound lies above the model's −log₂ p, so the model is at least as good as it says."),
        Block("list", rows=list(found["protocol"].items())),
    ]


def bits_text(found: Scores) -> str:
    """Bits per dimension with their standard error, as text."""
    error = found["standard_error"]
    return f"{found['bits_per_dim']:.3f}" + ("" if error is None else f" ± {error:.3f}")


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
    content = {"status": "finished", **extra, **sets[0], **(several if len(sets) > 1 else {})}
    write_json(folder / "metrics.json", content)
    blocks = report_blocks(sets, names, pictures)
    for name, text in (("report.md", as_markdown(blocks)), ("report.html", as_html(blocks, folder))):
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")

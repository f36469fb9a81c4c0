"""Scores for people in Python: a dictionary that shows itself as a small table, beside real images and noise."""

import html
import logging
import math
from typing import Any

from diffusion.evaluation.report import METRICS, SHORT, Metric, number, value_of
from diffusion.evaluation.scale import in_short
from diffusion.records.results import Scores

log = logging.getLogger("diffusion")
NUMBERS = ("n", "fid", "kid", "inception_score", "precision", "recall", "density", "coverage", "accuracy")


def in_numbers(scores: Scores) -> bool:
    """Whether the main scores are finite numbers or missing, and n is a whole one.

    Raises:
        OverflowError: a number is larger than any of Python's floats.
    """
    found = [scores.get(key) for key in NUMBERS]
    return type(found[0]) is int and all(type(x) in (int, float) and math.isfinite(x) for x in found if x is not None)


class ScoreTable(dict[str, Any]):
    """What metrics.json holds of a set of images: scores["fid"], scores["real"]["fid"] and so on.

    It prints as a table of the main scores, in a notebook as one of HTML.
    """

    @classmethod
    def of_run(cls, found: Scores | None, step: int) -> "ScoreTable | None":
        """What the metrics.json of a run holds, if these are scores of its weights at this step."""
        if found is None or found.get("step") != step or "fid" not in found:
            return None
        table = cls(found)
        try:
            whole = in_numbers(table) and in_numbers(table["real"]) and bool(repr(table) and table._repr_html_())
        except (LookupError, TypeError, ArithmeticError, ValueError, AttributeError):
            whole = False
        if not whole:
            log.warning("The metrics.json beside this model is not as it was written: its scores are left out.")
        return table if whole else None

    def metrics(self) -> list[Metric]:
        """The main scores that these images have."""
        return [metric for metric in METRICS if metric.key in SHORT and value_of(self, metric.key) is not None]

    def rows(self) -> list[list[str]]:
        """Heads and a row for each score: these images, real ones at the same n, and the other end of the scale."""
        real, scale, seeds = self["real"], self.get("scale") or {}, self.get("seeds")
        ends = ["noise"] if "noise" in scale else []
        heads = ["score", "better", f"n = {self['n']:,}", f"real, n = {real['n']:,}"]
        rows = [[*heads, *(f"{end}, n = {scale['n']:,}" for end in ends)]]
        for metric in self.metrics():
            found = [number(self, metric, seeds), number(real, metric, seeds)]
            rows.append([metric.name, metric.better, *found, *(metric.text(scale[e].get(metric.key)) for e in ends)])
        return rows

    def remarks(self) -> list[str]:
        """What to know beside the table: where the images come from, the scale, what was left out or means little."""
        source, scale = (self.get("protocol") or {}).get("images"), self.get("scale")
        return [
            *([f"{source}."] if source not in (None, "images") else []),
            *([in_short(scale)] if scale else []),
            *self.get("notes", []),
        ]

    def __repr__(self) -> str:
        rows = self.rows()
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = []
        for row in rows:
            cells = [f"{cell:<{widths[i]}}" if i < 2 else f"{cell:>{widths[i]}}" for i, cell in enumerate(row)]
            lines.append("  ".join(cells).rstrip())
        return "\n".join([*lines, *self.remarks()])

    def _repr_html_(self) -> str:
        lines = []
        for i, row in enumerate(self.rows()):
            tag = "td" if i else "th"
            lines.append("<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>")
        remarks = "<br>".join(html.escape(remark) for remark in self.remarks())
        return f"<table>{''.join(lines)}</table><small>{remarks}</small>"

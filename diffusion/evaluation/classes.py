"""The classes in a report: what each scores, generated beside real, and which are taken for which."""

from typing import Any

import numpy as np

from diffusion.drawing.names import titles
from diffusion.evaluation.document import Block, table
from diffusion.records.results import Scores

CLASS_SCORES = {"class_accuracy": "accuracy", "class_fid": "FID", "class_diversity": "diversity"}
NAMED, ALL, WEAKEST, PAIRS = 20, 40, 30, 20  # classes that figures name; that tables list; rows where there are more


def class_scores(scores: Scores) -> list[str]:
    """Names of the scores that at least one class has."""
    return [name for name in CLASS_SCORES if any(value is not None for value in scores[name] or ())]


def class_blocks(scores: Scores, of: str = "") -> list[Block]:
    """The table of the classes; of more than `ALL` their weakest, and the pairs that are confused most.

    Args:
        scores: as `Scorer.score` gives them.
        of: which set of several, for the headings.
    """
    shown, real, count = class_scores(scores), scores["real"], len(scores["class_names"])
    names = titles(scores["class_names"], numbered=count > NAMED)  # as figures do
    if not shown:
        return []
    heads = ["class", *(f"{CLASS_SCORES[key]}{side}" for key in shown for side in ("", " of real"))]
    chosen, blocks = list(range(count)), [Block("heading", f"Classes{of}")]
    if count > ALL:
        chosen, which = weakest(scores, shown[0]), "lowest" if shown[0] != "class_fid" else "highest"
        text = (
            f"The {len(chosen)} of {count:,} classes with the {which} {CLASS_SCORES[shown[0]]}. "
            f"All are in metrics.json, as {', '.join(shown)} in the order of class_names."
        )
        blocks.append(Block("text", text))
    rows = [[names[k], *(entry(one.get(key), k) for key in shown for one in (scores, real))] for k in chosen]
    blocks.append(table(heads, rows))
    if count > NAMED and scores["confusion"]:
        blocks += [Block("heading", f"Classes taken for others{of}"), Block("text", CONFUSED)]
        heads = ["asked for", "recognised", "% of generated", "% of real"]
        blocks.append(table(heads, confused_pairs(scores, names)))
    return blocks


CONFUSED = "The pairs in which the largest share of the images of one class is recognised as the other."


def weakest(scores: Scores, key: str) -> list[int]:
    """The numbers of the classes that score worst, from the worst on; those without a value are left out."""
    values = [(value, k) for k, value in enumerate(scores[key]) if value is not None]
    values.sort(key=lambda pair: (-pair[0] if key == "class_fid" else pair[0], pair[1]))
    return [k for _, k in values[:WEAKEST]]


def confused_pairs(scores: Scores, names: list[str]) -> list[list[str]]:
    """Rows of (asked for, recognised, % of the generated images, % of the real ones), the largest shares first."""
    made, real = (shares(one.get("confusion") or np.zeros((len(names),) * 2)) for one in (scores, scores["real"]))
    np.fill_diagonal(made, 0)
    order = np.argsort(-made, axis=None, kind="stable")[:PAIRS].tolist()
    pairs = [divmod(place, len(names)) for place in order]
    return [[names[i], names[j], f"{made[i, j]:.0f}", f"{real[i, j]:.0f}"] for i, j in pairs if made[i, j] > 0]


def shares(counts: Any) -> np.ndarray:
    """A confusion matrix in % of each row; 0 in rows without images."""
    share = np.array(counts, float)
    return 100 * share / share.sum(axis=1, keepdims=True).clip(min=1)


def entry(values: list | None, k: int) -> str:
    """The score of class k as text."""
    return "–" if values is None or values[k] is None else f"{values[k]:.3f}"

"""The reference of all settings: writes docs/settings.md from the comments of conf/ and from the code that reads them.

    python docs/make/settings.py

What a setting means is its line under "Args" in the docstring of the class that gets it, or its comment in conf/.
Its type is the annotation there, and its range is taken from the very sentence that refuses a wrong value. So the page
cannot say anything else than the program does; a setting that nothing explains is an error.
"""

import inspect
import re
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from explained import Leaf, defaults, kind_of, kind_of_value, leaves, meaning_of, parsed, range_of, target_of
from hydra.utils import get_object

from diffusion.config.left_open import KNOWN
from diffusion.config.settings import arguments_of

ROOT = Path(__file__).parents[2]
CONF, PAGE = ROOT / "conf", ROOT / "docs" / "settings.md"
MARK, END = "<!-- settings: made by docs/make/settings.py -->", "<!-- end -->"
# Group → what it decides, and the settings that one changes first.
GROUPS = {
    "data": ("the images", "padding root flip shift"),
    "model": ("the network", "width"),
    "schedule": ("how much noise there is at time t", "steps zero_terminal_snr"),
    "objective": ("what the network predicts", ""),
    "loss": ("what training minimises: how much each noise level counts", "gamma weight"),
    "timesteps": ("which noise levels are trained", "mean std"),
    "guidance": ("how closely labels are followed", "dropout scale interval rescale plus_plus"),
    "ema": ("the average of the weights", "decay widths"),
    "sampler": (
        "how images are drawn; `preview` is a fast one with the same options, used during training",
        "steps grid eta",
    ),
    "task": ("what `sample.py` does with a model", ""),
    "optimizer": ("how the weights are moved", "lr"),
    "training": (
        "how long, in which steps, and what is kept",
        "images epochs steps budget batch_size accumulate evaluate_every freeze",
    ),
    "device": ("where it runs, and how", "index precision compile"),
    "features": ("what the scores look at", "weights"),
    "launch": ("where the jobs of a sweep run", "hydra.launcher.n_jobs"),
    "search": ("which settings a sweep tries", "trials"),
}
TARGETS = {  # of settings that belong to a script alone
    "score": "diffusion.training.monitor.Monitor",
    "scorer": "diffusion.evaluation.classifier.train_classifier",
}
HEAD = "setting | default | may be | means"
ELSEWHERE = ("experiment", "hydra")  # the ladder has a page of its own, and Hydra its own manual


class Row(NamedTuple):
    """A setting as the page has it, but for its default."""

    name: str
    kind: str
    meaning: str


def row_of(leaf: Leaf, target: Any, prefix: str) -> Row:
    """The row of a setting of an option."""
    name = leaf.name.removeprefix("task.")
    if target is None or target.__module__.startswith("torch"):  # whose annotations change with its version
        return Row(f"{prefix}{name}", kind_of_value(leaf.value), leaf.comment)
    argument = arguments_of(target).get(name)
    kind = kind_of(argument.annotation, range_of(target, name)) if argument else kind_of_value(leaf.value)
    if f"{target.__module__}.{target.__qualname__}" in KNOWN.get(f"{prefix}{name}", ()):
        kind = f"{kind}, or auto: by the rule for this run"
    return Row(f"{prefix}{name}", kind, meaning_of(leaf.comment, target, name))


def options(group: str) -> dict[str, Path]:
    """The files of a group by the names of their options."""
    return {file.stem: file for file in sorted((CONF / group).glob("*.yaml"))}


def says(file: Path, group: str) -> str:
    """What an option is: the head of its file, or else the first sentence of what it names."""
    head, target = " ".join(parsed(file)[0].split("\n\n")[0].split()), target_of(file, group)
    if head or target is None:
        return head
    document = " ".join((inspect.getdoc(target) or "").split("\n\n")[0].split())
    return re.split(r"\. (?=[A-Z])", document)[0].rstrip(".")


def of_group(group: str) -> tuple[dict[Row, dict[str, list[str]]], list[str]]:
    """The rows of a group, each with its defaults and the options that have them; and all its options."""
    rows: dict[Row, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for option, file in options(group).items():
        target = target_of(file, group)
        for leaf in leaves(file):
            inside = target is not None and not (group == "task" and not leaf.name.startswith("task."))
            rows[row_of(leaf, target if inside else None, f"{group}." if inside else "")][leaf.value].append(option)
    together = {name: number for number, name in enumerate(dict.fromkeys(row.name for row in rows))}
    return dict(sorted(rows.items(), key=lambda item: together[item[0].name])), list(options(group))


def default(value: str) -> str:
    """A default as it stands on the page."""
    return "to be given" if value == "???" else f"`{value}`"


def safe(text: str) -> str:
    """A text for a cell of a table: no sign of it is taken for markup."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([*<~])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts).replace("|", r"\|")


def table(head: str, rows: list[list[str]]) -> str:
    """A table in Markdown."""
    columns = head.split(" | ")
    lines = [f"| {head} |", "|" + "---|" * len(columns), *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def group_section(group: str) -> str:
    """The part of the page about a group."""
    rows, every = of_group(group)
    found = []
    for row, values in rows.items():
        cells = [
            default(value) + (f": {', '.join(having)}" if len(values) > 1 or having != every else "")
            for value, having in values.items()
        ]
        found.append([f"`{row.name}`", "<br>".join(cells), safe(row.kind), safe(row.meaning)])
    what = GROUPS[group][0]
    parts = [f"### {group}", f"{what[0].upper()}{what[1:]}."]
    what_is = [[f"`{option}`", safe(says(file, group))] for option, file in options(group).items()]
    parts.append(table("option | what it is", what_is))
    if found:
        parts.append(table(HEAD, found))
    return "\n\n".join(parts)


def script_rows(name: str) -> list[tuple[Leaf, str, str]]:
    """A script's own settings: as they stand in its file, with their type and meaning."""
    found, file = [], CONF / f"{name}.yaml"
    beside = {leaf.name: leaf.comment for leaf in defaults(file)}
    for leaf in leaves(file):
        group, _, inner = leaf.name.partition(".")
        if group in TARGETS:
            row = row_of(leaf._replace(name=inner), get_object(TARGETS[group]), f"{group}.")
            found.append((leaf, row.kind, leaf.comment or row.meaning))
        else:
            known = inner and leaf.name in {row.name for row in of_group(group)[0]}
            meaning = leaf.comment or beside.get(leaf.name) or (f"as in [{group}](#{group})" if known else "")
            found.append((leaf, kind_of_value(leaf.value), meaning))
    return found


def script_section(name: str) -> str:
    """The part of the page about a script, or about what several scripts share."""
    chosen = list(defaults(CONF / f"{name}.yaml"))
    found = script_rows(name)
    rows = [[f"`{leaf.name}`", default(leaf.value), safe(kind), safe(meaning)] for leaf, kind, meaning in found]
    for leaf in chosen:
        if leaf.comment and leaf.name not in {each.name for each, _, _ in found}:
            rows.append([f"`{leaf.name}`", default(leaf.value), "an option", safe(leaf.comment)])
    text = parsed(CONF / f"{name}.yaml")[0]
    command, _, rest = text.partition("\n")
    parts = [f"### {name}", safe(text)]
    if command.startswith("python "):
        parts[1:] = [f"```text\n{command}\n```", *([safe(rest)] if rest else [])]
    plain = [f"`{leaf.name}={leaf.value}`" for leaf in chosen if not leaf.comment]
    if plain:
        parts.append(f"Groups, with what is chosen if nothing is said: {', '.join(plain)}.")
    return "\n\n".join([*parts, table(HEAD, rows)])


def overview() -> str:
    """One row for each group."""
    rows = []
    for group, (what, first) in GROUPS.items():
        every = ", ".join(f"`{each}`" for each in options(group))
        rows.append([f"[{group}](#{group})", what, every, ", ".join(f"`{each}`" for each in first.split())])
    return table("group | decides | options | settings one changes first", rows)


def scripts() -> list[str]:
    """The names of the files of conf/ itself, what is shared at the end."""
    names = sorted(file.stem for file in CONF.glob("*.yaml"))
    order = ["train", "sample", "evaluate", "drawing", "classifier", "trust"]
    return [name for name in order if name in names] + [name for name in names if name not in order]


def unexplained() -> list[str]:
    """The settings that neither a comment nor a docstring explains."""
    rows = [f"{row.name} ({group})" for group in GROUPS for row in of_group(group)[0] if not row.meaning]
    own = [(name, leaf, meaning) for name in scripts() for leaf, _, meaning in script_rows(name)]
    return rows + [f"{leaf.name} ({name})" for name, leaf, meaning in own if not meaning]


def made() -> str:
    """What the page has between its marks."""
    parts = [overview(), "## Groups", *map(group_section, GROUPS), "## Scripts", *map(script_section, scripts())]
    return "\n\n".join(parts)


def page() -> str:
    """The whole page."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARK)
    return f"{before}{MARK}\n\n{made()}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    if unexplained():
        raise SystemExit(f"Give these a comment in conf/ or a line in a docstring: {', '.join(unexplained())}.")
    PAGE.write_text(page(), encoding="utf-8")

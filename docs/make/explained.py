"""What conf/ and the code say of a setting: its comment, its line in a docstring, its type, and its range."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hydra.utils import get_object

from diffusion.config.settings import HOMES, describe

ELSEWHERE = re.compile(r"\b(?:as in|as of|see) `|self\.|post_hoc", re.IGNORECASE)
ENGINES = ("hydra.launcher.", "hydra.sweeper.")  # what one sets of Hydra itself
WORDS = {"a list, each a whole number": "list of whole numbers", "a list, each a finite number": "list of numbers"}
WORDS |= {"a list, each a text": "list of texts", "a whole number": "whole number", "a finite number": "number"}
WORDS |= {"a text": "text", "a list": "list"}


class Leaf(NamedTuple):
    """A setting as a file of conf/ has it: its name there, its value, and the comment beside it."""

    name: str
    value: str
    comment: str


@cache
def parsed(file: Path) -> tuple[str, yaml.MappingNode, list[str]]:
    """The comment at the head of a file, its content with the places in the text, and its lines."""
    lines = file.read_text(encoding="utf-8").splitlines()
    head = [line.lstrip("# ") for line in lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]]
    return "\n".join(line for line in head if not line.startswith("@package")), yaml.compose("\n".join(lines)), lines


def comment_at(file: Path, mark: Any) -> str:
    """The comment behind a place in a file."""
    found = re.match(r"\s+#\s*(.*)", parsed(file)[2][mark.line][mark.column :])
    return found[1] if found else ""


def leaves(file: Path, node: yaml.MappingNode | None = None, within: str = "") -> Iterator[Leaf]:
    """The settings of a file. What others fill in by themselves, ${…}, is left out."""
    lines = parsed(file)[2]
    for key, value in (node or parsed(file)[1]).value:
        name = within + key.value
        if name == "defaults":
            continue
        if isinstance(value, yaml.MappingNode):
            yield from leaves(file, value, f"{name}.")
        else:
            text = lines[value.start_mark.line][value.start_mark.column : value.end_mark.column]
            plumbing = "${" in text or (key.value == "_target_" and text != "???")
            if not plumbing and (not name.startswith("hydra.") or name.startswith(ENGINES)):
                yield Leaf(name, text.replace(", ", ","), comment_at(file, value.end_mark))


def defaults(file: Path) -> Iterator[Leaf]:
    """The groups of a script, each with the option that is chosen unless another is."""
    for key, value in parsed(file)[1].value:
        for item in value.value if key.value == "defaults" else ():
            if isinstance(item, yaml.MappingNode):
                ((group, option),) = item.value
                if not group.value.startswith("override"):
                    yield Leaf(group.value.split("@")[-1], option.value, comment_at(file, option.end_mark))


def target_of(file: Path, group: str) -> Any:
    """The class or function that the settings of an option are passed to; None where there is none."""
    text = re.search(r"^ *_target_: (\S+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    return get_object(text[1]) if text and group in HOMES else None


def code_of(target: Any) -> list[Any]:
    """A class and its bases, or a function and the functions of its room that it may ask; of this package."""
    if inspect.isclass(target):
        return [each for each in reversed(target.__mro__) if each.__module__.startswith("diffusion.")]
    room = ".".join(target.__module__.split(".")[:2])
    near = [each for each in vars(inspect.getmodule(target)).values() if inspect.isfunction(each)]
    classes = [each for each in vars(inspect.getmodule(target)).values() if inspect.isclass(each)]
    return [target, *(each for each in near + classes if each.__module__.startswith(room) and each is not target)]


@cache
def explained(target: Any) -> dict[str, str]:
    """What the docstrings say of each argument."""
    found: dict[str, str] = {}
    for each in code_of(target)[: None if inspect.isclass(target) else 1]:
        _, _, arguments = (inspect.getdoc(each) or "").partition("\nArgs:\n")
        for entry in re.split(r"\n(?=    \S)", "\n" + arguments.split("\n\n")[0]):
            names, _, text = entry.strip().partition(": ")
            for name in names.split(", ") if text else ():
                found[name] = in_yaml(" ".join(text.split()).rstrip("."))
    return found


def meaning_of(comment: str, target: Any, name: str) -> str:
    """The docstring, which says more, unless it sends the reader elsewhere; else the comment."""
    document = explained(target).get(name, "")
    return comment if comment and (not document or ELSEWHERE.search(document)) else document


def in_yaml(text: str) -> str:
    """A sentence about Python as one about YAML."""
    for python, said in (("None", "null"), ("True", "true"), ("False", "false")):
        text = re.sub(rf"\b{python}\b", said, text)
    return text


@cache
def refusals(target: Any) -> list[str]:
    """The sentences with which a target refuses settings, as in "gamma=… must be positive"."""
    found = []
    for each in code_of(target):
        names = vars(inspect.getmodule(each))
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(each)))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(rendered(part, names) for part in node.values))
    return found


def rendered(part: ast.expr, names: dict[str, Any]) -> str:
    """A part of an f-string: its text, a constant of the module as it is, or "…" for what only a run knows."""
    if isinstance(part, ast.Constant):
        return str(part.value)
    try:
        constant = compile(ast.Expression(ast.fix_missing_locations(ast.JoinedStr([part]))), "", "eval")
        return str(eval(constant, {}, names))  # of this package alone
    except Exception:  # a name that the module does not have
        return "…"


def range_of(target: Any, name: str) -> str:
    """What a setting may be, in the words of the sentence that refuses another value; empty where there is none."""
    for sentence in refusals(target):
        found = re.search(rf"(?:^|[ .]){name}=… (?:is [^;:]* and )?must (?:be |lie )?(.*)", sentence)
        found = found or re.search(rf" and {name}=… ((?:at least |0 or more|from ).*)", sentence)
        if found:
            limits = re.sub(r"between (\S+) and (\w+)=…", r"between \1 and \2", found[1])
            limits = re.split(r"[;:.](?: |$)|, so that|, for example|,? and \w+=…|, and at most \w+=…", limits)[0]
            limits = re.sub(r"^divide (.*?)(?: …)?$", r"one that divides \1", limits)
            limits = re.sub(r"^(?:name|all lie) |(\w+)=…", lambda match: f"`{match[1]}`" if match[1] else "", limits)
            return "" if "…" in limits else limits.strip()
    return ""


def kind_of(hint: Any, limits: str) -> str:
    """Type and range in words."""
    kind = describe(hint)
    for long, short in WORDS.items():
        kind = kind.replace(long, short)
    kind = " or ".join(dict.fromkeys(kind.split(" or ")))
    if limits.startswith("a list") or (limits and kind == "text"):
        return limits
    return f"{kind}, {limits}" if limits else kind


def kind_of_value(value: str) -> str:
    """The type of a setting that no annotation tells, from its default."""
    kinds = {bool: "true or false", int: "whole number", float: "number", list: "list"}
    text = re.sub(r"^(\d+)e", r"\1.0e", value)  # YAML 1.1 takes 2e-4 for a text
    return kinds.get(type(yaml.safe_load(text)), "text" if value != "null" else "")

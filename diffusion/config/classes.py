"""How `classes=` is understood: as names first, then as numbers.

A class is asked for by what its folder is called, and a folder may be called 2, 007, 1e3, true, null or "cats, dogs".
Hydra would turn some of these into numbers and truth values and stumble over others, so they are put into quotes
before it reads the command line.
"""

import difflib
import logging
import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from diffusion.config.arguments import at_commas
from diffusion.system.errors import UserError

if TYPE_CHECKING:  # the command line is read without PyTorch
    from diffusion.drawing.image_model import ImageModel

log = logging.getLogger("diffusion")
PLAIN = re.compile(r"[A-Za-z_][\w-]*|0|[1-9]\d*", re.ASCII)  # what Hydra takes as it stands
OTHERWISE = ("true", "false", "null", "nan", "inf")  # but for these
QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
SWEEP = re.compile(r"(choice|range|interval|glob|shuffle|sort|tag)\(")  # Hydra's functions for -m
SHOWN = 10  # names in a message


def quote_classes(argument: str, sweep: bool = False) -> str:
    """An argument of the command line; if it is `classes=…`, with quotes around the names that Hydra would misread.

    Args:
        argument: for example classes=[1e3,T-shirt].
        sweep: with -m, where values with a comma between them are for one job each.

    Returns:
        for example classes=['1e3',T-shirt].
    """
    name, equals, value = argument.partition("=")
    if name.lstrip("+") != "classes" or (sweep and SWEEP.match(value.strip())):
        return argument
    return name + equals + ",".join(_quoted(part) for part in (at_commas(value) if sweep else [value]))


def _quoted(value: str) -> str:
    value = value.strip()
    if value.startswith("[") and value.endswith("]"):
        return f"[{','.join(map(_quoted_name, at_commas(value[1:-1])))}]"
    return value if value.lower() == "null" else _quoted_name(value)


def _quoted_name(name: str) -> str:
    name = name.strip()
    if not name or QUOTED.fullmatch(name) or (PLAIN.fullmatch(name) and name.lower() not in OTHERWISE):
        return name
    text = re.sub(r"(\\+)(?='|$)", r"\1\1", name)  # a backslash before a quote counts twice
    text = text.replace("'", "\\'").replace("${", "\\${")
    return f"'{text}'"


def class_numbers(
    classes: Any, model: "ImageModel", setting: str = "classes", names_first: bool = True
) -> list[int] | None:
    """Classes by name or number, one or a list, as numbers; None means all.

    Args:
        classes: names, which may be written in small or capital letters, and numbers.
        model: that draws them.
        setting: their name in messages.
        names_first: a number may be a name, too, as on the command line; otherwise only texts are names.

    Raises:
        UserError: there is no such class, or the model takes no labels.
    """
    if classes is None:
        return None
    if not model.guidance.conditional:
        raise UserError(f"{setting}={classes}: this model was trained with guidance=none and takes no labels.")
    items = [classes] if isinstance(classes, str | int | float) else list(classes)
    if not items:
        raise UserError(f"{setting}=[] names no class: leave it out for an even mix.")
    return [_class_number(item, model.class_names, setting, names_first) for item in items]


def _class_number(item: Any, names: Sequence[str], setting: str, names_first: bool) -> int:
    """The class of that name; or else of that name in other letters, of that value (7 for 007), or of that number."""
    if isinstance(item, int) and not isinstance(item, bool) and not names_first:
        return _in_range(item, names, setting)
    text = item if isinstance(item, str) else "null" if item is None else str(item)
    if text in names:
        return names.index(text)
    folded = [_folded(name) for name in names]
    alike = [k for k, name in enumerate(folded) if name == _folded(text)]
    if not alike and not isinstance(item, bool) and _value(text) is not None:
        alike = [k for k, name in enumerate(names) if _value(name) == _value(text)]
    if len(alike) == 1:
        return alike[0]
    if alike:
        raise UserError(
            f"{setting}={text} may be each of {_some([names[k] for k in alike])}: write the one that you mean as it is."
        )
    if re.fullmatch(r"[+-]?\d{1,9}", text):
        number = _in_range(int(text), names, setting)
        if any(_value(name) is not None for name in names):
            log.info(
                "%s=%s: no class has this name, so it is taken for class number %s, %s.",
                setting,
                text,
                number,
                names[number],
            )
        return number
    if re.fullmatch(r"#\d{1,9}", text):  # as pictures write it
        return _in_range(int(text[1:]), names, setting)
    if {_folded(part.strip()) for part in text.split(",")} <= set(folded):
        raise UserError(f"{setting}={text}: no class has this name; for these classes write {setting}=[{text}].")
    near = difflib.get_close_matches(_folded(text), folded, n=3)
    if near:
        meant = " or ".join(names[folded.index(name)] for name in near)
        raise UserError(f"{setting}={text}: there is no such class; did you mean {meant}?")
    raise UserError(f"{setting}={text}: there is no such class; choose from {_some(names)}.")


def _in_range(number: int, names: Sequence[str], setting: str) -> int:
    if not 0 <= number < len(names):
        raise UserError(f"{setting}={number}: the labels go from 0 to {len(names) - 1} ({_some(names)}).")
    return number


def _folded(name: str) -> str:
    """The same for names that differ in capital letters, or in how accents are stored."""
    return unicodedata.normalize("NFC", name).casefold()


def _value(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _some(names: Sequence[str]) -> str:
    """Names for a message: the first ones, and how many there are."""
    more = f", … ({len(names):,} in all)" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more

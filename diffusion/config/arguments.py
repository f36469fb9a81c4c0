"""Paths on the command line: what is written there is what is meant, whatever Hydra's grammar makes of its signs."""

import os
import re
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from diffusion.config.settings import HOMES
from diffusion.config.trust import foreign
from diffusion.system.errors import UserError
from diffusion.system.files import no_text

READ = (
    *("checkpoint", "resume", "samples", "data.root", "features.weights"),
    *("data.train", "data.test", "data.train_labels", "data.test_labels", "data.name"),
    *("guidance.weaker", "task.images", "task.mask"),
)
WRITTEN = ("features.cache", "output_dir", "path", "hydra.run.dir", "hydra.sweep.dir")
BROUGHT = ("data", "model", "schedule", "objective")  # by the checkpoint that a run starts from
BROUGHT_ON_RESUME = ("loss", "timesteps", "guidance", "ema", "sampler", "preview", "optimizer", "features")
WITH_VALUE = (
    *"--config-dir -cd --config-path -cp --config-name -cn --package -p --experimental-rerun --cfg -c".split(),
)
FOLDER_OF_OPTIONS = ("--config-dir", "-cd", "--config-path", "-cp")


def arranged(arguments: Sequence[str], sweep: bool) -> list[str]:
    """The command line with every path in such quotes that Hydra reads it as it is written, and `~` as the home.

    Args:
        arguments: as the shell gave them.
        sweep: whether a comma may stand between the values of a sweep (-m).

    Raises:
        UserError: a path is empty, or holds what no path here can.
    """
    arguments = options_first(arguments)
    result = list(arguments)
    for number, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        name = option.lstrip("+")
        if equals and name in READ + WRITTEN:
            result[number] = f"{option}={quoted(name, value, sweep)}"
        elif equals and name == "data.background":
            colours = at_commas(value) if sweep else [value]
            colours = [in_quotes(each) if re.fullmatch("#[0-9a-fA-F]+", each) else each for each in colours]
            result[number] = f"{option}={','.join(colours)}"
        elif equals and option in FOLDER_OF_OPTIONS:
            result[number] = f"{option}={checked(option, value)}"
        elif number and arguments[number - 1] in FOLDER_OF_OPTIONS:
            result[number] = checked(arguments[number - 1], argument)
    return result


def options_first(arguments: Sequence[str]) -> list[str]:
    """The command line with its options, such as --config-dir, before its settings: between them they are refused."""
    options: list[str] = []
    settings: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        value = before in WITH_VALUE or (before in ("--info", "-i") and "=" not in argument)
        (options if argument.startswith("-") or value else settings).append(argument)
    return options + settings


def of_the_run(arguments: Sequence[str], script: str) -> list[str]:
    """The command line of a run that goes on, or starts from another: settings of groups whose options it brings.

    Hydra composes with the options that a new run would have, which may not know these settings; with two plus signs
    it takes them nevertheless, and they are compared with the run's own.
    """
    given = {name: value for name, _, value in (argument.partition("=") for argument in arguments)}
    if script in ("sample", "export"):
        return list(arguments)
    if script == "evaluate":
        groups: Sequence[str] = ["data"] if given.get("checkpoint", "null") != "null" else []
    elif given.get("resume", "null") != "null":
        groups = [*BROUGHT, *BROUGHT_ON_RESUME]
    elif given.get("checkpoint", "null") != "null":
        groups = BROUGHT
    else:
        return list(arguments)
    groups = [group for group in groups if not {group, f"sampler@{group}"} & given.keys()]
    return [
        f"++{each}" if re.split(r"[.=]", each)[0] in groups and "." in each.partition("=")[0] else each
        for each in arguments
    ]


def with_own_parts(arguments: Sequence[str]) -> list[str]:
    """The command line of which an argument names a part of the user's own, such as model._target_=my_parts.Net.

    The settings of that group are the part's, which Hydra does not know: with two plus signs it takes them, and later
    they are compared with the part's arguments.
    """
    named = [each.lstrip("+").partition("._target_=") for each in arguments]
    own = tuple(f"{group}." for group, _, name in named if group in HOMES and foreign(name.split(",")[0].strip()))
    return [f"++{each}" if own and each.startswith(own) and "=" in each else each for each in arguments]


def quoted(name: str, value: str, sweep: bool = False) -> str:
    """The value of the setting `name` in Hydra's grammar; arguments and errors as in `arranged`."""
    home = os.path.expanduser(value)
    if os.path.lexists(value) or os.path.lexists(home):
        return in_quotes(checked(name, value))
    sweep = sweep and not name.startswith("hydra.")  # whose own settings no sweep goes over
    if value.strip("'\" ") == "" or (value.lower() == "null" and name == "data.root"):
        raise UserError(empty(name, value.strip("'\" ")))
    read = reading(value)
    if isinstance(read, ChoiceSweep) and not read.simple_form and sweep:  # choice(a,b)
        return value
    if re.fullmatch(r"\[.*\]", value, re.DOTALL) and name == "samples":
        return f"[{','.join(pieces(name, value[1:-1]))}]" if value[1:-1].strip() else value
    if "," in value and sweep:
        return ",".join(pieces(name, value))
    if "," in value and name in READ and not isinstance(read, str):  # Hydra says that a sweep takes -m
        return value
    if value == "null" or (isinstance(read, str) and "${" in read):
        return value
    if re.search(r"\$\{[^{}]+\}", value) and name in WRITTEN:  # a reference beside signs of Hydra's grammar
        return in_single_quotes(checked(name, value))
    return in_quotes(checked(name, read if isinstance(read, str) else value))


def pieces(name: str, value: str) -> list[str]:
    """Paths between commas, each quoted; a comma within the name of a file that exists is part of the name."""
    words, found = at_commas(value, brackets=False), []
    while words:
        count = next((n for n in range(len(words), 1, -1) if os.path.lexists(",".join(words[:n]).strip())), 1)
        found.append(quoted(name, ",".join(words[:count]).strip()))
        del words[:count]
    return found


def at_commas(value: str, brackets: bool = True) -> list[str]:
    """What commas separate, but for those in quotes, and in brackets where these belong to Hydra's grammar."""
    parts, depth, quote = [""], 0, ""
    for i, sign in enumerate(value):
        if quote:
            quote = "" if sign == quote and value[i - 1] != "\\" else quote
        elif sign in "'\"" and sign in value[i + 1 :] and not parts[-1].strip(" ["):  # else an apostrophe
            quote = sign
        elif sign in "([{" and brackets:
            depth += 1
        elif sign in ")]}" and brackets:
            depth -= 1
        elif sign == "," and depth <= 0:
            parts.append("")
            continue
        parts[-1] += sign
    return parts


def reading(value: str) -> Any:
    """What Hydra takes a value for; None where it cannot read it."""
    try:
        read = OverridesParser.create().parse_override(f"name={value}").value()
    except HydraException:
        return None
    return read


def in_quotes(path: str) -> str:
    """A path as a value of Hydra's grammar, as it is where that reads the same."""
    if "${" in path:
        raise UserError(f"{path!r} is a path with ${{ in it, which is taken for a reference to a setting: rename it.")
    return path if reading(path) == path else in_single_quotes(path)


def in_single_quotes(text: str) -> str:
    """A text as a value of Hydra's grammar, in which it still resolves references."""
    return QuotedString(text=text, quote=Quote.single).with_quotes()


def checked(name: str, path: str) -> str:
    """A path that can be used, with `~` as the home; `name` is that of its setting in messages."""
    if not path.strip():
        raise UserError(empty(name))
    if any(ord(sign) < 32 or ord(sign) == 127 for sign in path):
        raise UserError(f"{name}={path!r}: a path with a line break, a tab or the like cannot be used: rename it.")
    why = no_text(path)
    if why:
        raise UserError(f"{name}={path!a}: the name of this path {why}.")
    return path if os.path.lexists(path) else os.path.expanduser(path)


def empty(name: str, value: str = "") -> str:
    """The sentence for a path that is nothing, or null."""
    return f"{name}={value} is empty: give a path, or leave it out (a variable of the shell that is not set is empty)."


def settle(cfg: DictConfig) -> None:
    """The same for the paths of a composed config, which may come from the user's own files: changed in place."""
    for name in (*READ, "features.cache"):
        value = OmegaConf.select(cfg, name, throw_on_missing=False) if OmegaConf.is_config(cfg) else None
        if isinstance(value, str):
            changed: Any = checked(name, value)
        elif isinstance(value, ListConfig):
            changed = [checked(name, item) if isinstance(item, str) else item for item in value]
        else:
            continue
        if changed != value:
            with open_dict(cfg):
                OmegaConf.update(cfg, name, changed)

"""Settings for Python: the words of a command line become dictionaries, which may then be changed.

config = compose("experiment=ema", "model.width=32")
config["training"]["steps"] = 500
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from diffusion.config import arguments, command, options, settings, trust
from diffusion.config.advice import as_sentence
from diffusion.config.fallback import fall_back
from diffusion.system.errors import UserError


class Settings(dict[str, Any]):
    """What `compose` makes: the settings of a script by their groups, in plain dictionaries.

    Whatever is changed in them counts as if it had been said to `compose`.

    Args:
        found: the settings.
        script: whose they are.
        words: that were given, as Hydra read them.
        folder: of the user's own options, or None.
    """

    def __init__(self, found: Mapping[str, Any], script: str, words: Sequence[str], folder: Path | None) -> None:
        super().__init__(found)
        self.script, self.words, self.folder = script, list(words), folder
        self.composed = deepcopy(dict(found))

    def overrides(self) -> list[str]:
        """The words of a command line that means the same: those that were given, and one for each change.

        A length of the run that was changed stands in the place of the others that were given.
        """
        changed, lengths = list(changes(self.composed, simple(self))), "images epochs steps budget".split()
        new = {word.partition("=")[0] for word in changed if not word.endswith("=null")}
        if not new.intersection(f"training.{name}" for name in lengths):
            return [*self.words, *changed]
        dropped = {f"training.{name}" for name in lengths[1:]} - new
        return [*(word for word in self.words if word.partition("=")[0].lstrip("+~") not in dropped), *changed]

    def command(self) -> list[str]:
        """That command line, its script first."""
        own = [] if self.folder is None else [f"--config-dir={self.folder}"]
        return [str(options.home().parent / f"{self.script}.py"), *own, *self.overrides()]

    def cfg(self, folder: Path) -> DictConfig:
        """The settings as a script gets them from Hydra, with its folder."""
        return OmegaConf.create({**simple(self), "output_dir": str(folder)})

    def copy(self) -> "Settings":
        """Others that start from these."""
        return deepcopy(self)

    def __repr__(self) -> str:
        return OmegaConf.to_yaml(OmegaConf.create(simple(self))).rstrip()


def compose(*overrides: str, script: str = "train", config_dir: str | Path | None = None) -> Settings:
    """The settings of a run, as `python train.py …` makes them of the same words.

    Args:
        overrides: "experiment=ema", "model.width=32", …
        script: "train" or "evaluate".
        config_dir: a folder of options of your own, as --config-dir.

    Raises:
        UserError: there is no such setting or option; in one sentence, with what may be meant.
    """
    for each in overrides:
        if not isinstance(each, str) or each.startswith("-"):
            raise UserError(f"{each!r} is no setting: write a text with name=value, for example 'model.width=32'.")
    refuse_folders(overrides)
    folder = None if config_dir is None else Path(config_dir).expanduser().resolve()
    if folder is not None and not folder.is_dir():
        raise UserError(f"config_dir={config_dir}: there is no such folder.")
    with command.given(Settings({}, script, overrides, folder).command()), in_sentences():
        words = command.arranged(overrides, script)
    with command.given(Settings({}, script, words, folder).command()), in_sentences():
        found = options.composed(script, words, [options.home(), *([] if folder is None else [folder])])
        words = list(found.hydra.overrides.task)
        with open_dict(found):
            del found["hydra"], found["output_dir"]  # which are a process's own
        arguments.settle(found)
        with trust.given(found.get("trust")):
            trust.part_from_options(found, words)
            if script == "train":
                settings.leave_out_foreign(found, words)
                fall_back(found, words)
                settings.choose_length(found, words)
        made: Any = OmegaConf.to_container(found, resolve=True)
        return Settings(made, script, words, folder)


def refuse_folders(names: Iterable[str]) -> None:
    """Raise `UserError` where words or names of settings are of a process of its own: its folder, Hydra's node."""
    taken = next((each for each in names if re.match(r"[+~]*(output_dir|hydra)\b", each)), None)
    if taken:
        raise UserError(
            f"{taken} is for the command line alone: give folder= to diffusion.train or diffusion.evaluate."
        )


@contextmanager
def in_sentences() -> Iterator[None]:
    """A block in which what the user can mend is raised as `UserError`, in the sentence of the command line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        sentence = as_sentence(error)
        if sentence is None:
            raise
        raise UserError(sentence) from None


def simple(value: Any) -> Any:
    """The same of what a config can hold: lists for tuples, numbers for those of NumPy and PyTorch, texts for paths."""
    if isinstance(value, Mapping):
        return {str(key): simple(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [simple(each) for each in value]
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value) if isinstance(value, Path) else value


def changes(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """What a command line says for each setting that is another now."""
    for key in [*before, *(key for key in now if key not in before)]:
        name = f"{prefix}{key}"
        if key not in now:
            yield f"~{name}"
        elif isinstance(old := before.get(key), Mapping) and isinstance(now[key], Mapping):
            yield from changes(old, now[key], f"{name}.")
        elif key not in before or old != now[key]:
            yield from said(name, now[key])


def said(name: str, value: Any) -> Iterator[str]:
    """The words of a command line for a setting of Python's: one, or one for each of those in a dictionary."""
    value = simple(value)
    if isinstance(value, dict):
        for key, each in value.items():
            yield from said(f"{name}.{key}", each)
    elif isinstance(value, str):
        path = name in arguments.READ + arguments.WRITTEN  # which are quoted later
        yield f"{name}={value if path else arguments.in_quotes(value)}"
    else:
        try:
            yield f"{name}={json.dumps(value, ensure_ascii=False)}"
        except TypeError as error:
            what = f"{name}={value!r}"[:200]
            raise UserError(f"{what} must be a number, a text, true, false, null, or a list of them.") from error


def first_of(words: Sequence[str], names: str) -> str | None:
    """The first word of a command line that gives one of these settings, or one below it."""
    return next((word for word in words if word.split("=")[0].split(".")[0] in names.split()), None)

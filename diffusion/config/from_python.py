"""Runs and evaluations that are started from Python, with the checks and the words of the scripts.

Hydra's own state is neither needed nor changed, so that all this works as often as one likes in one process.
"""

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffusion.config import arguments, command, trust, whole_evaluation, whole_run
from diffusion.config.composing import Settings, compose, first_of, in_sentences, refuse_folders, said
from diffusion.records import checkpoint
from diffusion.records.results import Scores
from diffusion.system import ranks
from diffusion.system.errors import InUse, UserError, brief
from diffusion.system.files import BY_SCRIPT, LogFile, sole_use
from diffusion.system.progress import shown
from diffusion.system.terminal import forgiving
from diffusion.training.interruption import Stopped

LINE = "[%(asctime)s][%(levelname)s] %(message)s"  # of the log file, as in conf/hydra/job_logging


def train(config: Settings | str | Sequence[str], folder: str | Path | None, progress: bool) -> tuple[Settings, Path]:
    """The settings and the folder of a run, trained as `train.py` does; arguments and errors as in `model.train`."""
    config = settings_of(config)
    place = run_folder(config, folder)
    overrides, threads = config.overrides(), torch.get_num_threads()
    try:
        with command.given(config.command()), in_sentences(), trust.given(config.get("trust")), use(place):
            cfg = config.cfg(place)
            arguments.settle(cfg)
            trust.part_from_options(cfg, overrides)
            with told("train", place, progress):
                whole_run.train(cfg, overrides)
    except Stopped as stop:
        text = f"{str(stop).partition('; continue with')[0]}; go on by diffusion.train(config, {str(place)!r})"
        raise Stopped(text, stop.exit_code - 128) from None
    finally:
        torch.set_num_threads(threads)
    return config, place


def evaluate(given: whole_evaluation.Given, words: Sequence[str], folder: str | Path | None, progress: bool) -> Scores:
    """Scores of what Python gives, as of `evaluate.py`; `words` as there, without a folder nothing stays."""
    alone()
    place = None if folder is None else Path(arguments.checked("folder", str(folder)))
    config = compose(*words, script="evaluate")
    names, held = [*trust.modules(), *trust_of(config)], nullcontext() if place is None else use(place)
    with command.given(config.command()), in_sentences(), trust.given(names), held, told("evaluate", place, progress):
        return whole_evaluation.evaluate(config.cfg(place or Path()), config.words, place, given=given)


def words_of(overrides: Sequence[str], settings: Mapping[str, Any]) -> list[str]:
    """The words of evaluate.py for what `diffusion.evaluate` is given; guidance= may be a scale, steps= the sampler's.

    Raises:
        UserError: an override is no text.
    """
    for each in overrides:
        if not isinstance(each, str):
            raise UserError(f"{each!r} is no setting: write n=20, or a text with name=value, 'sampler=ddim'.")
    words = list(overrides)
    for name, value in settings.items():
        if name == "guidance" and not isinstance(value, dict):  # as in `Model.sample`
            value = {"scale": value}
        words += said("sampler.steps" if name == "steps" else name, value)
    return words


def of_loading(words: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """The words of an evaluation that do not say how its model is loaded, and arguments of `diffusion.load` for others.

    Trust is for both: the evaluation may have further parts of one's own.
    """
    how = [word for word in words if first_of([word.lstrip("+")], "trust device averaged ema_width")]
    if not how:
        return list(words), {}
    config = compose(*how, script="evaluate")
    found = {**loading(config), "averaged": config["averaged"], "ema_width": config["ema_width"]}
    return [word for word in words if word not in how or "trust" in word.partition("=")[0]], found


def loading(config: Settings) -> dict[str, Any]:
    """The arguments of `diffusion.load` that settings stand for."""
    device = {key: value for key, value in config["device"].items() if key != "_target_"}
    return {"device": device.pop("type", "auto"), "trust": trust_of(config), **device}


def images(pixels: Any, labels: Any) -> whole_evaluation.Given:
    """Images and labels that Python gives, as arrays.

    Raises:
        UserError: they are none.
    """
    arrays = []
    for name, each in (("images", pixels), ("labels", labels)):
        try:
            arrays.append(None if each is None else np.asarray(each.cpu() if isinstance(each, torch.Tensor) else each))
        except (ValueError, TypeError, RuntimeError) as error:
            raise UserError(f"{name}: these are no array, for all must be of one shape ({brief(error)}).") from error
    if arrays[0] is None:
        raise UserError("None is nothing to score: give a model, the folder of a run, or images, uint8 (N, C, H, W).")
    return whole_evaluation.Given(pixels=arrays[0], labels=arrays[1])


def trust_of(config: Settings) -> list[str]:
    """The modules that the settings trust, as a list."""
    found = config.get("trust") or []
    return [found] if isinstance(found, str) else list(found)


def settings_of(config: Settings | str | Sequence[str]) -> Settings:
    """The settings that `diffusion.train` is given, or that its words stand for."""
    alone()
    if isinstance(config, str):
        return compose(config)
    if isinstance(config, list | tuple):
        return compose(*config)
    if not isinstance(config, Settings) or config.script != "train":
        what = type(config).__name__
        raise UserError(
            f"config must be what diffusion.compose gives, or a text such as 'experiment=ema', not a {what}."
        )
    refuse_folders(config)
    return config


def run_folder(config: Settings, folder: str | Path | None) -> Path:
    """Where a run lies: the given folder, that of the run which goes on, or a new one under outputs/train."""
    place = None if folder is None else Path(arguments.checked("folder", str(folder)))
    if config.get("resume"):
        own = checkpoint.find(str(config["resume"]), setting="resume").parent
        if place is not None and place.resolve() != own.resolve():
            raise UserError(f"folder={folder}: resume= goes on with a run in its own folder, {own}: leave folder out.")
        return own
    return place or Path("outputs", "train", datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f"))


@contextmanager
def use(folder: Path) -> Iterator[None]:
    """`sole_use` of a folder, whose messages speak of Python."""
    try:
        with sole_use(folder):
            yield
    except InUse as error:
        raise InUse(str(error).replace(BY_SCRIPT, "")) from None


def alone() -> None:
    """Raise `UserError` where this is one of several processes."""
    if ranks.size() > 1:
        raise UserError("Python trains and scores in one process: several are for torchrun … train.py and evaluate.py.")


@contextmanager
def told(script: str, folder: Path | None, progress: bool) -> Iterator[None]:
    """A block whose log is told on the screen, unless the program has handlers of its own, and kept in the folder.

    Args:
        script: name of the log file.
        folder: for it; None keeps nothing.
        progress: show bars, and more than warnings.
    """
    log = logging.getLogger("diffusion")
    handlers: list[logging.Handler] = []
    if not log.hasHandlers():
        handlers.append(logging.StreamHandler(forgiving(sys.stderr)))
        handlers[0].setLevel(logging.INFO if progress else logging.WARNING)
    if folder is not None:
        handlers.append(LogFile(folder / f"{script}.log", delay=True, encoding="utf-8"))
        handlers[-1].setFormatter(logging.Formatter(LINE))
    level = log.level
    log.setLevel(level or logging.INFO)
    for handler in handlers:
        log.addHandler(handler)
    try:
        with shown(progress):
            yield
    finally:
        log.setLevel(level)
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()

"""What a run shows as it goes on: curves, pictures, settings.

A `Tracker` shows them in one place; trackers.py has those there are. Whether a place can be had is told before the
training; a training that runs is not lost over its curves.
"""

import importlib.util
import logging
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from diffusion.records.results import read_metrics, write_json
from diffusion.system.errors import UserError, brief

log = logging.getLogger("diffusion")
PICTURES = 16  # of each tag that are written one by one; then every second, every fourth, …
POINTS = 4096  # of each curve, likewise: half as many more whenever a run is twice as long
IDS = "tracking.json"  # in the run's folder: under which id each place knows the run
PAUSE = 60.0  # seconds without a new try after a failure, which may have taken long itself


def kept(number: int, most: int = POINTS) -> bool:
    """Whether the so-many-th of something is written: all of the first `most`, then every second, every fourth, …"""
    return number % 2 ** (number // most).bit_length() == 0


class Tracker:
    """One place where a run is shown, or, as it is here, none."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}  # pictures of each tag so far
        self.waiting: dict[str, Callable[[], None]] = {}  # the newest picture of a tag, where it was left out

    def begin(self) -> None:
        """Open it, just before the training; `UserError` where that fails."""

    def scalars(self, values: dict[str, float | None], step: int) -> None:
        """Curves by tag, for example {"train/loss": 0.1}; None is left out."""

    def image(self, tag: str, pixels: Tensor, step: int) -> None:
        """One picture, uint8 (C, H, W). Long runs leave out more and more of them, but never the newest in the end."""
        number = self.seen.get(tag, 0)
        self.seen[tag] = number + 1
        self.waiting[tag] = lambda: self.picture(tag, pixels, step)
        if kept(number, PICTURES):
            self.waiting.pop(tag)()

    def picture(self, tag: str, pixels: Tensor, step: int) -> None:
        """One picture that is not left out."""

    def text(self, tag: str, text: str) -> None:
        """A text, shown as it is."""

    def hyperparameters(self, settings: dict[str, Any], metrics: list[str]) -> None:
        """The settings in which runs are compared, always the same ones, and the scores by which they are."""

    def configuration(self, config: dict[str, Any]) -> None:
        """All settings of the run, by group."""

    def flush(self) -> None:
        """Let a reader see what was written."""

    def close(self) -> None:
        """Write what was left out last, and close it."""
        while self.waiting:
            self.waiting.popitem()[1]()


class Several(Tracker):
    """Several places at once.

    Args:
        trackers: one for each.
    """

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        super().__init__()
        self.trackers = trackers

    def begin(self) -> None:
        for each in self.trackers:
            each.begin()

    def scalars(self, values: dict[str, float | None], step: int) -> None:
        for each in self.trackers:
            each.scalars(values, step)

    def image(self, tag: str, pixels: Tensor, step: int) -> None:
        for each in self.trackers:
            each.image(tag, pixels, step)

    def text(self, tag: str, text: str) -> None:
        for each in self.trackers:
            each.text(tag, text)

    def hyperparameters(self, settings: dict[str, Any], metrics: list[str]) -> None:
        for each in self.trackers:
            each.hyperparameters(settings, metrics)

    def configuration(self, config: dict[str, Any]) -> None:
        for each in self.trackers:
            each.configuration(config)

    def flush(self) -> None:
        for each in self.trackers:
            each.flush()

    def close(self) -> None:
        for each in self.trackers:
            each.close()


class Service(Tracker):
    """A place outside the run's folder: it knows the run by an id, and it may be out of reach for a while.

    Args:
        folder: of the run.
        group: name of the sweep that the run is part of.
    """

    setting = title = package = ""  # what `track` calls it, what people do, and what is installed

    def __init__(self, folder: Path, group: str | None = None) -> None:
        super().__init__()
        self.folder, self.group = folder, group
        self.run: Any = None  # once it is open
        self.failed, self.quiet_until = False, 0.0
        if importlib.util.find_spec(self.package) is None:
            raise UserError(
                f'track={self.setting} needs the package {self.package}: pip install -e ".[{self.setting}]", or choose '
                "track=tensorboard."
            )

    @property
    def id(self) -> str | None:
        """Under which this place knows the run, from an earlier start."""
        found = (read_metrics(self.folder / IDS) or {}).get(self.setting)
        return found if isinstance(found, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,64}", found) else None

    def remember(self, name: str) -> None:
        """Keep the id for the next start."""
        if self.id != name:
            write_json(self.folder / IDS, {**(read_metrics(self.folder / IDS) or {}), self.setting: name})

    def attempt(self, act: Callable[[], object]) -> None:
        """Do something there; what fails is left out, and told once."""
        if self.run is None or time.monotonic() < self.quiet_until:
            return
        try:
            act()
        except Exception as error:  # of many kinds
            say = log.debug if self.failed else log.warning
            say("%s cannot be reached for now, training goes on without: %s.", self.title, brief(error))
            self.failed, self.quiet_until = True, time.monotonic() + PAUSE

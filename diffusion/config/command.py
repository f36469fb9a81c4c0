"""A command: the words that a person gives a script, or `diffusion.compose`, before and after Hydra may read them."""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from diffusion.config import arguments, classes, guiding
from diffusion.system.errors import UserError

_words: ContextVar[tuple[str, ...] | None] = ContextVar("words", default=None)


def words() -> Sequence[str]:
    """The command that is being obeyed, its script first: that of the shell, unless Python gave another."""
    return _words.get() or sys.argv


def from_python() -> bool:
    """Whether the command comes from Python rather than from a shell."""
    return _words.get() is not None


@contextmanager
def given(command: Sequence[str]) -> Iterator[None]:
    """A block in which a command from Python is obeyed, which messages then speak of."""
    token = _words.set(tuple(command))
    try:
        yield
    finally:
        _words.reset(token)


def arranged(asked: Sequence[str], script: str, sweep: bool = False) -> list[str]:
    """The words after the script's name, as Hydra is to read them.

    Args:
        asked: settings and options.
        script: "train", "sample" or "evaluate".
        sweep: whether a comma may stand between the values of a sweep (-m).

    Raises:
        UserError: a path is none, or resume= names no run.
    """
    found = [classes.quote_classes(word, sweep) for word in asked]
    # The preview is a sampler, too: preview=ddpm chooses one as sampler=ddpm does.
    found = [re.sub(r"^preview=", "sampler@preview=", word) for word in arguments.arranged(found, sweep)]
    found = in_run_folder(guiding.without_null(found, script))
    return arguments.with_own_parts(arguments.of_the_run(found, script))


def in_run_folder(asked: Sequence[str]) -> list[str]:
    """The words with `hydra.run.dir` at the run that `resume=` names, so that it goes on in its own folder."""
    found = list(asked)
    number = next((i for i, word in enumerate(found) if word.startswith("resume=")), None)
    if number is None:
        return found
    if {"-m", "--multirun"} & set(found):
        raise UserError("resume= continues one run and cannot be swept: leave out -m.")
    from diffusion.records import checkpoint  # here, so that other commands start without waiting for torch

    value = arguments.reading(found[number].partition("=")[2])
    if value is not None:
        path = checkpoint.find(str(value), setting="resume")
        # What "latest" means is settled here, once.
        found[number] = f"resume={arguments.in_quotes(str(path))}"
        found.insert(number + 1, f"hydra.run.dir={arguments.in_quotes(str(path.parent))}")
    return found

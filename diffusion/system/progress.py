"""The progress bars: lively on a terminal and in a notebook, a line now and then in a file."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from tqdm import tqdm

from diffusion.system import ranks
from diffusion.system.terminal import forgiving

_shown: ContextVar[bool] = ContextVar("shown", default=True)


@contextmanager
def shown(wanted: bool) -> Iterator[None]:
    """A block whose bars are shown or not."""
    token = _shown.set(wanted)
    try:
        yield
    finally:
        _shown.reset(token)


def progress_bar(total: int, description: str, unit: str, initial: int = 0, disable: bool = False) -> tqdm:
    """A bar that shows rate and time left; it vanishes at its end unless it is the training's.

    Where standard error is closed or full, nothing is shown.

    Args:
        total, initial: in units.
        unit: what is counted.
        disable: show nothing.
    """
    screen = forgiving(sys.stderr)
    return tqdm(
        total=total,
        initial=initial,
        desc=description,
        unit=f" {unit}",
        unit_scale=True,
        disable=disable or not _shown.get() or not ranks.first(),
        leave=description == "training",
        mininterval=0.5 if screen.isatty() or in_notebook(screen) else 30,
        file=screen,
    )


def in_notebook(screen: Any) -> bool:
    """Whether a forgiving stream leads to the cell of a notebook."""
    return type(getattr(screen, "_stream", screen)).__module__.startswith("ipykernel.")

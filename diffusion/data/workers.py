"""Processes that decode images from their files, and what becomes of a run that loses them."""

import errno
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from diffusion.system.errors import UserError, brief

log = logging.getLogger("diffusion")
SHARED_MEMORY = "/dev/shm"
AHEAD = 2  # batches that a process reads ahead, PyTorch's own number


def loaded(
    dataset: Dataset, order: Callable[[int], Iterator[list[int]]], workers: int, pin: bool
) -> Generator[tuple[Tensor, Tensor]]:
    """Batches of a data set, read by processes of their own; by this one after these could not be started or died.

    Args:
        dataset: index → (image, label).
        order: number of the first batch → the indices of that batch and of all that follow.
        workers: processes; 0 for none.
        pin: put the batches where a GPU can fetch them.

    Returns:
        an iterator of (images (B, C, H, W), labels (B,)).

    Raises:
        UserError: an image cannot be read.
    """
    done = 0
    if workers:
        iterator = None
        try:
            iterator = _by_processes(dataset, order(0), workers, pin)
            for images, labels in iterator:
                yield torch.as_tensor(images), torch.as_tensor(labels)
                done += 1
        except UserError as error:  # one from a worker comes with the worker's traceback in its text
            _end(iterator, pin)
            raise UserError(str(error).strip().rpartition("UserError: ")[2]) from error
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, OSError, EOFError) as error:  # what is wrong with the images comes again, and is told
            log.warning(
                "The processes that read images are lost (%s): this one reads on alone. training.workers=%d asks for "
                "fewer of them, which need less memory.",
                brief(error, 90),
                workers // 2,
            )
            _end(iterator, pin)
            iterator = None
    yield from DataLoader(dataset, batch_sampler=order(done), num_workers=0, pin_memory=pin)


def _by_processes(dataset: Dataset, order: Iterator[list[int]], workers: int, pin: bool) -> Iterator[Any]:
    try:
        multiprocessing.Queue()
    except OSError as error:  # its locks lie in the shared memory, too
        raise RuntimeError(f"shared memory: {brief(error)}") from error
    indices = next(order)
    first = default_collate([dataset[0]])
    need = sum(part.nbytes for part in first) * len(indices) * workers * (AHEAD + 1)
    loader = DataLoader(
        dataset,
        batch_sampler=_chain(indices, order),
        num_workers=workers,
        prefetch_factor=AHEAD,
        pin_memory=pin,
        # Inside a job of joblib, Python's own way to start processes is another one.
        multiprocessing_context="fork" if "fork" in multiprocessing.get_all_start_methods() else None,
        worker_init_fn=_leave_signals_to_the_parent,
        collate_fn=None if shared_memory() > need else _through_a_pipe,
    )
    with _no_alarm():
        iterator = iter(loader)
    event = getattr(iterator, "_workers_done_event", None)
    if hasattr(event, "_flag"):
        iterator._workers_done_event = _Farewell(event)  # type: ignore[attr-defined]
    return iterator


def _end(iterator: Any, pin: bool) -> None:
    """End the processes of an iterator, if there is one, without a farewell, which they may take long to hear; but not
    where batches are pinned, since a message cut short would hold up the thread that does it."""
    for process in () if pin else getattr(iterator, "_workers", ()):
        process.kill()


class _Farewell:
    """PyTorch's word to the processes that they may go, without the lock around it: one that is killed with that lock
    in its hand would hold up this process for ever. Nobody waits for the word; they ask for it now and then.

    Args:
        event: PyTorch's own, which the processes see.
    """

    def __init__(self, event: Any) -> None:
        self.flag, self.said = event._flag, False

    def set(self) -> None:
        """Say it."""
        if not self.said:
            self.flag.release()
        self.said = True

    def is_set(self) -> bool:
        """Whether it was said."""
        return self.said


def _chain(first: list[int], rest: Iterator[list[int]]) -> Iterator[list[int]]:
    yield first
    yield from rest


def shared_memory() -> float:
    """How many bytes processes can share; more than that, and the system kills who writes them."""
    try:
        place = os.statvfs(SHARED_MEMORY)
    except (OSError, AttributeError) as error:  # not on this system, where memory is shared otherwise
        return 0 if getattr(error, "errno", None) == errno.EACCES else float("inf")
    return place.f_bavail * place.f_frsize


def _through_a_pipe(samples: list[tuple[Tensor, int]]) -> tuple[np.ndarray, np.ndarray]:
    """A batch as NumPy's arrays, which travel without shared memory, somewhat slower."""
    images, labels = default_collate(samples)
    return images.numpy(), labels.numpy()


@contextmanager
def _no_alarm() -> Iterator[None]:
    """Keep PyTorch from raising an error wherever this process is when a worker dies, in the midst of a step as well.

    The next batch tells it instead.
    """
    number = getattr(signal, "SIGCHLD", None)  # Windows has none
    before = None if number is None else signal.getsignal(number)
    try:
        yield
    finally:
        if number is not None and signal.getsignal(number) is not before:
            signal.signal(number, before or signal.SIG_DFL)


def _leave_signals_to_the_parent(worker: int) -> None:
    """Ctrl-C, and what torchrun or a batch system sends, reaches all processes; the training process answers it.

    It may need some more images to finish its step, and ends this process then; or else an alarm does.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    alarm = getattr(signal, "alarm", None)  # Windows has none
    signal.signal(signal.SIGTERM, signal.SIG_DFL if alarm is None else lambda number, frame: alarm(30))

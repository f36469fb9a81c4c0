"""Several processes that train, draw or score as one, started by torchrun.

Process 0 writes the files and the log. Whatever is decided, it decides for all; what is random depends on the seed and
on the number of the step or image, never on the process. With one process, which is the usual case, nothing here does
anything.
"""

import atexit
import datetime
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, NoReturn, TypeVar

from diffusion.system import terminal
from diffusion.system.errors import NotWritten, UserError, brief
from diffusion.system.lookout import Lookout
from diffusion.system.lookout import leave as leave_at_once

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
QUIET = "hydra.run.dir=. hydra.output_subdir=null hydra/job_logging=none hydra/hydra_logging=none".split()
PATIENCE = datetime.timedelta(hours=2)  # for process 0, while it scores
LOST = re.compile(r"gloo.*(closed|reset) by peer|NCCL.*(remote|connection|unhandled system)|Broken pipe", re.I | re.S)
_lookout: Lookout | None = None  # of this process, once it has met the others


def rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ.get("RANK", 0))


def size() -> int:
    """How many processes there are. Batch systems set WORLD_SIZE alone, which means nothing here."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1


def first() -> bool:
    """Whether this is process 0, which writes."""
    return rank() == 0


def arrange_arguments(arguments: list[str]) -> list[str]:
    """The command line as this process takes it: those above 0 make no folder and no log file of their own."""
    if size() > 1 and any(re.match(r"-m$|--m|hydra\.mode=.*multirun", argument, re.I) for argument in arguments):
        raise UserError(
            "A sweep (-m) cannot be started by torchrun, which makes several processes of one run: leave out torchrun "
            "(launch=joblib and the others let jobs run side by side), or leave out -m."
        )
    return arguments if first() else [*arguments, *QUIET]


def join() -> None:
    """Meet the other processes, once."""
    if size() == 1:
        return
    import torch
    from torch import distributed

    if distributed.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    global _lookout
    _lookout = Lookout(distributed.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])), first())
    _lookout.start()


def leave() -> None:
    """Part from the other processes, at the very end."""
    distributed = sys.modules.get("torch.distributed")
    if size() > 1 and distributed is not None and distributed.is_initialized():
        distributed.destroy_process_group()


def end(code: int) -> NoReturn:
    """End this process; one of several without taking the interpreter down.

    A thread of gloo may still be letting go of a tensor, for which it needs the interpreter: where that is being taken
    down, Python 3.11 ends the thread, and C++ then the process, by SIGABRT, after everything was done.
    """
    if size() == 1:
        sys.exit(code)
    if code and _lookout is not None:
        _lookout.tell()
    atexit._run_exitfuncs()
    terminal.part()
    os._exit(code)


def shared(value: T) -> T:
    """What process 0 has, in all processes."""
    if size() == 1:
        return value
    from torch import distributed

    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def by_first(make: Callable[[], T]) -> T:
    """What `make` returns, after process 0 has made it alone: it downloads and caches for the others."""
    if size() == 1:
        return make()
    made = make() if first() else None
    largest(0)  # which takes part when it has made it, too
    return made if first() else make()  # type: ignore[return-value]


def first_alone(make: Callable[[], T]) -> T:
    """What `make` returns, after process 0 has done it alone, in all processes; a file it cannot write fails in all."""
    if size() == 1:
        return make()
    made, failure = None, None
    if first():
        try:
            made = make()
        except (OSError, UserError) as error:
            failure = error
    made, failure = shared((made, failure))
    if failure is not None:
        raise failure
    return made  # type: ignore[return-value]


@contextmanager
def together(what: str) -> Iterator[None]:
    """A block in which processes meet: a file that one of them cannot read or write ends all, as they would wait."""
    try:
        yield
    except (OSError, NotWritten) as error:
        if size() == 1:
            raise
        raise UserError(f"{what}: {brief(error, 400)}; the {size()} processes of this run end.") from error


def largest(*values: int) -> list[int]:
    """The largest of each number over all processes."""
    if size() == 1:
        return list(values)
    import torch
    from torch import distributed

    tensor = torch.tensor(values)
    distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
    return tensor.tolist()


def total(tensor: "Tensor") -> "Tensor":
    """The sum of a tensor over all processes; a new tensor."""
    tensor = tensor.clone()
    if size() > 1:
        from torch import distributed

        distributed.all_reduce(tensor)
    return tensor


def bounds(n: int) -> list[int]:
    """Where the shares of n things begin and end, one after the other."""
    return [k * n // size() for k in range(size() + 1)]


def share(n: int) -> range:
    """Which of n things are this process's; all of them where there are fewer than processes."""
    return range(n) if n < size() else range(*bounds(n)[rank() : rank() + 2])


def gather(part: "Tensor", n: int) -> "Tensor":
    """The tensors of all processes' shares of n things, one after the other, in every process."""
    if size() == 1 or n < size():
        return part
    import torch
    from torch import distributed

    longest = -(-n // size())
    padded = part.new_zeros((longest, *part.shape[1:]))
    padded[: len(part)] = part
    found = [torch.empty_like(padded) for _ in range(size())]
    distributed.all_gather(found, padded)
    return torch.cat([each[: stop - start] for each, (start, stop) in zip(found, pairwise(bounds(n)), strict=True)])


def gpu(count: int) -> int:
    """Which of so many GPUs of a machine is this process's; `ValueError` where there are fewer than processes."""
    mine = int(os.environ.get("LOCAL_RANK", 0))
    here = max(mine + 1, int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    if here > count:
        raise ValueError(f"type=cuda: {here} processes need as many GPUs, and {count} can be seen here")
    return mine


def let_first_speak() -> None:
    """Before an error is told: end here, without a word, where another process tells why all of them end."""
    if size() == 1:
        return
    if _lookout is None:  # torchrun ends this process as soon as another one has spoken
        time.sleep(0 if first() else 3)
        return
    if _lookout.signal is not None and lost(sys.exception()):  # stopped, and another one was quicker
        leave_at_once(128 + _lookout.signal)
    _lookout.claim()


def ending() -> bool:
    """Whether this process ends in a moment, because another one has failed."""
    return _lookout is not None and _lookout.ending


def lost(error: BaseException | None) -> bool:
    """Whether an error says no more than that another process is gone."""
    return size() > 1 and isinstance(error, RuntimeError) and bool(LOST.search(str(error)))


def saving(active: bool) -> None:
    """Say whether a signal lets the step end and saves, which takes its time, or ends this process in a moment."""
    if _lookout is not None:
        _lookout.saving, _lookout.since = active, time.monotonic()

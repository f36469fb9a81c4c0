"""CPU threads beside other processes.

PyTorch splits each operation into equal parts, one for each core, and threads that are done spin while they wait for
the others. Beside another process that takes a core, all wait for the slowest, and their spinning keeps it from being
served. So threads wait asleep after a short while, and a run measures how many of them are fastest where it runs.
"""

import os
import time
from collections.abc import Callable
from statistics import median

SPINS = "1000"  # of libgomp, about a microsecond each; left alone it spins for 300,000
GAIN = 1.25  # fewer threads than there are cores must be so much faster to be taken


def wait_asleep() -> None:
    """Let threads of OpenMP that wait spin briefly and then sleep; before PyTorch is imported, else without effect."""
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPINS


def candidates(most: int) -> list[int]:
    """Numbers of threads worth a try: all cores, all but one, half of them, one."""
    return sorted({most, max(1, most - 1), max(1, most // 2), 1}, reverse=True)


def fastest(work: Callable[[], object], set_threads: Callable[[int], object], most: int, seconds: float) -> int:
    """The number of threads, at most `most`, that does some work fastest here and now.

    Args:
        work: takes a fraction of `seconds`.
        set_threads: called with each number to try.
        most: what is kept unless fewer are clearly faster.
        seconds: to spend, about.
    """
    times: dict[int, list[float]] = {count: [] for count in candidates(most)}
    end, rounds = time.perf_counter() + seconds, 0
    while rounds < 2 or (time.perf_counter() < end and rounds < 9):
        for count, spent in times.items():  # in turn, so that what comes and goes meets all of them
            set_threads(count)
            start = time.perf_counter()
            work()
            if rounds:  # the first is to warm up
                spent.append(time.perf_counter() - start)
        rounds += 1
    middle = {count: median(spent) for count, spent in times.items()}
    best = min(middle, key=lambda count: middle[count])
    return best if middle[most] > GAIN * middle[best] else most

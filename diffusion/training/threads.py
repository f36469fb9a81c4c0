"""How many CPU threads a run takes: as many as are fastest when it begins, and the same when it goes on."""

import copy
import logging
import os
import time

import torch

from diffusion.data.shapes import padded, sides
from diffusion.system import ranks
from diffusion.system.threads import fastest
from diffusion.training.parts import Parts

log = logging.getLogger("diffusion")
_before, _taken = 0, 0  # threads of PyTorch, before a run of this process took fewer, and since
WORTH = 20.0  # seconds of training below which nothing is measured
FEW = 8  # images of the first look
ONE, TIME = 0.25, 3.0  # seconds of a pass and of the whole measurement, about


def most() -> int:
    """How many threads there are to choose from: PyTorch's number, before a run of this process took fewer."""
    now = torch.get_num_threads()
    return _before if now == _taken else now


def take(count: int, cores: int) -> None:
    """Set PyTorch's threads, and remember of how many."""
    global _before, _taken
    _before, _taken = cores, count
    torch.set_num_threads(count)


def free(parts: Parts) -> bool:
    """Whether the number of threads is this run's to choose: on one CPU, and nobody has named it."""
    named = parts.device.threads is not None or "OMP_NUM_THREADS" in os.environ
    return parts.device.torch_device.type == "cpu" and not named and ranks.size() == 1


def restore(parts: Parts, threads: int | None) -> int | None:
    """Set the number of threads that a run began with, so that it ends with the same digits; which is returned."""
    cores = most()
    if threads is None or not free(parts) or not 1 <= threads <= cores:
        return None
    take(threads, cores)
    return threads


def choose(parts: Parts, batch_size: int, images: int, seconds: float | None = None) -> int | None:
    """Set PyTorch's threads to as many as train fastest here; how many, or None where nothing is to choose.

    Measured by forward and backward passes of a copy of the network, for a few seconds. Sums depend on the number of
    threads in their last digits, so a run keeps it.

    Args:
        parts: of the run.
        batch_size: images at once; fewer are taken where a pass would take long.
        images: that it is about to see.
        seconds: or how long it is about to train.
    """
    cores = most()
    if not free(parts) or cores == 1:
        return None
    with torch.random.fork_rng(devices=[]):  # dropout
        network = copy.deepcopy(parts.network)
        shape, kinds = padded(parts.data.image_size, sides(parts.data.padding)), parts.denoiser.num_classes

        def passes(n: int) -> None:
            x = torch.zeros(n, parts.data.channels, *shape).to(memory_format=parts.device.memory_format)
            labels = torch.zeros(n, dtype=torch.long) if kinds else None
            with parts.device.autocast():
                found = network.forward(x, torch.ones(n), labels)
            found.float().square().mean().backward()

        torch.set_num_threads(cores)
        few = min(FEW, batch_size)
        passes(few)
        start = time.perf_counter()
        passes(few)
        each = (time.perf_counter() - start) / few
        chosen = cores
        if (each * images if seconds is None else seconds) > WORTH:
            n = max(few, min(batch_size, int(ONE / each)))
            chosen = fastest(lambda: passes(n), torch.set_num_threads, cores, TIME)
    take(chosen, cores)
    if chosen < cores:
        text = "%d of %d CPU threads train fastest beside what else runs here; device.threads=%d takes all."
        log.info(text, chosen, cores, cores)
    return chosen

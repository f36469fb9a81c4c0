"""What is logged: means since the last log, gathered on the device, and the speed of training."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from diffusion.system import ranks

LEVELS = 5  # noise levels t in (0, 0.2], (0.2, 0.4], … whose losses are logged apart


class RunningSums:
    """Means since the last log, summed on the device: loss, gradient norm, and the loss of each noise level.

    Adding never waits for the device; `means` does, once.
    """

    def __init__(self, device: torch.device) -> None:
        # loss, gradient norm, steps, then the loss and the number of images of each noise level
        self.values = torch.zeros(3 + 2 * LEVELS, device=device)

    def add(self, losses: Tensor, weighted: Tensor, t: Tensor, norm: Tensor, batch_size: int) -> None:
        """Add the losses (b,) of images at times t (b,), as they are and as they count, of a batch of `batch_size`; and
        the gradient's norm, which all processes have alike."""
        level = (t * LEVELS).ceil().long().clamp(1, LEVELS) - 1
        self.values[0] += weighted.sum() / batch_size
        self.values.index_add_(0, 3 + level, losses)
        self.values.index_add_(0, 3 + LEVELS + level, torch.ones_like(losses))
        if ranks.first():
            self.values[1] += norm
            self.values[2] += 1

    def finite(self) -> bool:
        """Whether every loss and gradient so far was finite, in this process."""
        return bool(self.values[:2].isfinite().all())

    def means(self, anew: bool = True) -> dict[str, float | None]:
        """The means by TensorBoard tag; starts anew, or goes on for a mean over a longer time."""
        loss, norm, count, *levels = ranks.total(self.values).tolist()
        if anew:
            self.values.zero_()
        if not count:  # every step was skipped
            return {}
        means: dict[str, float | None] = {"train/loss": loss / count, "train/grad_norm": norm / count}
        for i, (total, seen) in enumerate(zip(levels[:LEVELS], levels[LEVELS:], strict=True)):
            means[f"noise_level/{i / LEVELS:.1f}-{(i + 1) / LEVELS:.1f}"] = total / seen if seen else None
        return means


class Stopwatch:
    """Time spent on training, and images per second since the last reading; pauses count in neither."""

    def __init__(self) -> None:
        self.start(0)

    def start(self, images: int, spent: float = 0.0) -> None:
        """Begin to count at so many images, and with so many seconds spent before."""
        self.images, self.since = images, time.perf_counter()
        self.begun = self.since - spent

    def spent(self) -> float:
        """Seconds of training."""
        return time.perf_counter() - self.begun

    def rate(self, images: int) -> float:
        """Images per second since the last reading, which this one becomes."""
        now = time.perf_counter()
        seconds, seen = now - self.since, images - self.images
        self.images, self.since = images, now
        return seen / max(seconds, 1e-9)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent inside does not count."""
        start = time.perf_counter()
        try:
            yield
        finally:
            pause = time.perf_counter() - start
            self.since, self.begun = self.since + pause, self.begun + pause

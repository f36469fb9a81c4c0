"""How fast a training is here and now, measured by its own step before it begins."""

import time
from collections.abc import Callable
from dataclasses import replace

import torch

from diffusion.system import ranks
from diffusion.training import rule, threads
from diffusion.training.enough_memory import too_small
from diffusion.training.parts import Parts, Progress
from diffusion.training.plan import Plan
from diffusion.training.running_sums import RunningSums
from diffusion.training.step import TrainStep

SHARE, MOST = 0.025, 4.0  # of the budget, and seconds, that are spent on measuring, about
LEAST = 0.25  # seconds in which nothing can be measured
STEPS = 8  # of a network, at most
FEW = 8  # images of the first step


class Clock:
    """Seconds since it was made, alike in all processes."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    def __call__(self) -> float:
        return ranks.largest(int(1e6 * (time.perf_counter() - self.start)))[0] / 1e6


def step_seconds(parts: Parts, plan: Plan, seed: int, limit: float) -> float:
    """Seconds of a step of the slowest process: the mean of as many as take `limit` seconds, but of one at least.

    Args:
        parts: of a training that is thrown away afterwards.
        plan: its plan.
        seed: of the run.
        limit: seconds.
    """
    place, data, size = parts.device.torch_device, parts.data.train, plan.batch_size
    parts.network.train()

    def timed(size: int, count: int) -> float:
        smaller = replace(plan, nonfinite="stop", batch_size=size)
        images, labels = data.select(torch.arange(size)[smaller.part] % len(data))
        batch = images.to(place), None if labels is None else labels.to(place)
        step = TrainStep(parts, smaller, Progress(10**6), RunningSums(place), seed)
        clock = Clock()
        for _ in range(count):
            step(batch)
        if place.type != "cpu":  # which is given its work ahead, in training, too
            torch.accelerator.synchronize(place)
        return clock() / count

    few = min(size, -(-FEW // (plan.accumulate * ranks.size())) * plan.accumulate * ranks.size())
    warming = timed(few, 1)
    if warming > limit:  # large images: a whole batch would take too much of the budget
        return warming * size / few
    one = timed(size, 1)
    more = min(STEPS, int(limit / max(one, 1e-6)))
    return timed(size, more) if more else one


class Measured:
    """How many images a second networks of several widths see here.

    Args:
        make: (width, batch size) → the parts and the plan of such a training.
        seed: of the run.
        seconds: of the budget.
        batch: images of a step.

    Attributes:
        speeds: width → images per second, at `batch`.
        batch: of a step, the best of those tried.
        spent: seconds that it took, but for the choice of threads.
        threads: of the CPU, where they were chosen on the way.
    """

    def __init__(
        self, make: Callable[[int, int], tuple[Parts, Plan]], seed: int, seconds: float, batch: int = rule.BATCH
    ) -> None:
        self.make, self.seed, self.seconds = make, seed, seconds
        self.limit = self.share = min(MOST, SHARE * seconds)
        self.speeds: dict[int, float] = {}
        self.batch, self.spent, self.begun = batch, 0.0, False
        self.threads: int | None = None

    def rate(self, width: int, batch: int) -> float:
        """Images per second; 0 where the memory is too small."""
        clock, first = Clock(), not self.begun
        with torch.random.fork_rng(devices=[]):  # dropout
            parts, plan = self.make(width, batch)
            if first:
                self.threads = threads.choose(parts, batch, 0, self.seconds)
                clock, self.begun = Clock(), True
            try:
                found = batch / step_seconds(parts, plan, self.seed, self.share / 4)
            except (RuntimeError, MemoryError) as error:
                if not too_small(error) or ranks.size() > 1:
                    raise
                found = 0.0
        self.spent += clock()
        if first and parts.device.torch_device.type != "cpu":  # which takes its time to start, and would in training
            self.limit += self.spent
        return found

    @property
    def left(self) -> float:
        """Seconds of the budget that are left."""
        return max(self.seconds - self.spent, 1.0)

    def images(self, width: int) -> float:
        """Images that a network sees in what is left of the budget."""
        return self.left * rule.Speeds(self.speeds)(width)

    def choose_batch(self, parameters: dict[int, int]) -> None:
        """Double the batch as long as steps of twice as many images teach more in the time, as on a GPU that mostly
        waits for its next order; on a CPU they take twice as long, and it stays."""
        width = min(parameters, key=lambda each: abs(each - rule.FIRST))
        best, batch = 0.0, self.batch
        while batch <= rule.LARGEST_BATCH and self.spent < self.limit:
            rate = self.rate(width, batch)
            worth = rule.useful(self.seconds * rate, batch)
            if worth <= best:
                break
            best, self.batch, self.speeds = worth, batch, {width: rate}
            batch *= 2

    def choose_width(self, parameters: dict[int, int]) -> int:
        """The best width: the one that looks best is measured, until that is one which was measured before."""
        width = self.best(parameters) if self.speeds else min(parameters, key=lambda each: abs(each - rule.FIRST))
        while width not in self.speeds and (not self.speeds or self.spent < self.limit):
            rate = self.rate(width, self.batch)
            if rate:
                self.speeds[width] = rate
            elif width == min(parameters):  # whose run tells that the memory is too small
                self.speeds[width] = rule.USUAL
            else:
                parameters = {each: count for each, count in parameters.items() if each < width}
            width = self.best(parameters) if self.speeds else max(parameters)
        return width

    def best(self, parameters: dict[int, int]) -> int:
        """The best width by the speeds so far."""
        return rule.width_in_time(parameters, rule.Speeds(self.speeds), self.left, self.batch)

"""The training loop, from top to bottom in the order in which it runs.

A step learns (`step.py`), what is due after it is logged, saved, drawn or scored, and the next one follows, until the
run's length is reached or a signal comes. N steps equal k steps, a kill, and N − k steps.
"""

import logging
import math
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tqdm import tqdm

from diffusion.data.images import batches
from diffusion.evaluation.ranking import HELD_OUT_LOSS
from diffusion.records.tracking import Tracker, kept
from diffusion.system import ranks
from diffusion.system.errors import NotWritten, brief
from diffusion.system.progress import progress_bar
from diffusion.training import threads, tuning
from diffusion.training.enough_memory import enough_memory, enough_to_show
from diffusion.training.interruption import Stopped, StopSignals
from diffusion.training.monitor import Monitor
from diffusion.training.pacing import Pace
from diffusion.training.parts import Parts, Progress
from diffusion.training.plan import Plan, due
from diffusion.training.profiling import profiling
from diffusion.training.running_sums import RunningSums, Stopwatch
from diffusion.training.state import State
from diffusion.training.step import TrainStep

log = logging.getLogger("diffusion")


@dataclass(eq=False, repr=False)
class Trainer:
    """Trains a denoiser.

    Args:
        parts: what it trains, and with what.
        plan: how long, how fast, and what it shows how often.
        monitor: draws grids and scores with the averaged weights.
        tracker: takes curves.
        folder: of the run.
        seed: of all random numbers.
        header: what every checkpoint also holds: {"config": …, "image": …}.
    """

    parts: Parts
    plan: Plan
    monitor: Monitor
    tracker: Tracker
    folder: Path
    seed: int
    header: dict[str, Any]

    def __post_init__(self) -> None:
        parts, plan = self.parts, self.plan
        self.progress = Progress(plan.total_steps(len(parts.data.train)))
        self.sums, self.stopwatch = RunningSums(parts.device.torch_device), Stopwatch()
        self.previewed: int | None = None  # the step of the newest preview, and the newest scores with theirs
        self.scored: tuple[int, dict[str, float | None]] | None = None
        self.train_step = TrainStep(parts, plan, self.progress, self.sums, self.seed)
        self.state = State(parts, plan, self.progress, self.sums, self.stopwatch, self.folder, self.header)

    def fit(self) -> dict[str, float | None]:
        """Train to the end, save, then preview and score. Returns the final scores.

        Raises:
            Stopped: after Ctrl-C or SIGTERM; the state is saved.
            UserError: the loss is no longer finite, or a checkpoint cannot be written.
        """
        plan, progress, best = self.plan, self.progress, self.state.best
        pace, reader, profiler, bar = self.begin()
        # What follows a step: what it leaves behind, and what it shows of itself, which a signal ends at once.
        records = [(plan.log_every, lambda: self.log(bar)), (plan.checkpoint_every, self.save)]
        shows = [(plan.preview_every, "the preview", self.preview), (plan.evaluate_every, "the scores", self.evaluate)]
        scores: dict[str, float | None] = {}
        with StopSignals() as stop, profiler as profiled, bar, closing(reader) as data:
            halt, progress.total_steps = stop.agreed(progress.total_steps)
            if halt is None and best.missed(progress.step) and not progress.finished:
                self.show(stop, shows[:1] if plan.keep_by == HELD_OUT_LOSS else shows[1:])
                halt, progress.total_steps = stop.agreed(progress.total_steps)
            while progress.step < progress.total_steps and halt is None and not best.exhausted:
                with enough_memory(self.state):
                    self.train_step(next(data))
                self.state.check_skipped()
                with self.stopwatch.paused():
                    profiled()
                progress.total_steps = pace.steps(progress.step, self.stopwatch.spent())
                halt, progress.total_steps = stop.agreed(progress.total_steps)
                bar.total = progress.total_steps * plan.batch_size
                bar.update(plan.batch_size)
                for every, record in records:
                    if progress.finished or due(every, progress.step):
                        record()
                if plan.shows(progress.step) and not progress.finished and halt is None:
                    self.show(stop, shows)
                if not progress.finished and halt is None and (ranks.size() == 1 or plan.shows(progress.step)):
                    halt, progress.total_steps = stop.agreed(progress.total_steps)
            bar.close()
            if halt is None and best.exhausted and not progress.finished:
                self.end_early()
            if halt is None:
                with stop.at_once(), enough_to_show("the last preview and the scores", self.state):
                    self.tune()
                    self.preview()
                    scores = self.evaluate()
                halt, progress.total_steps = stop.agreed(progress.total_steps)
            if halt is not None:
                self.leave(stop, halt)
        return scores

    def begin(self) -> tuple[Pace, Generator[tuple], AbstractContextManager, tqdm]:
        """Start the clock; its pace, the batches from here on, the profiler and the bar."""
        plan, progress, place = self.plan, self.progress, self.parts.device.torch_device
        size, data = plan.batch_size, self.parts.data.train
        if progress.step == 0 and progress.threads is None:
            progress.threads = threads.choose(self.parts, size, progress.total_steps * size, plan.seconds)
        self.stopwatch.start(progress.step * size, self.state.spent)
        pace = Pace(plan.seconds, progress.step, progress.total_steps)
        progress.total_steps = pace.steps(progress.step, self.state.spent)
        self.parts.replicate()
        if progress.step == 0:
            self.state.save()
        self.parts.network.train()
        reader = batches(data, size, self.seed, progress.step, place, plan.workers, plan.part)
        profiler = profiling(plan.profile if ranks.first() else 0, self.folder, place)
        bar = progress_bar(progress.total_steps * size, "training", "images", initial=progress.step * size)
        return pace, reader, profiler, bar

    def show(self, stop: StopSignals, shows: Sequence[tuple[int, str, Callable[[], object]]]) -> None:
        """Make what is due after this step; a signal ends it at once.

        Args:
            shows: every so many steps, what it is in words, and what makes it.
        """
        if ranks.size() > 1:
            self.save()  # several processes cannot leave in the midst of what follows
        with stop.at_once():
            for every, what, make in shows:
                if due(every, self.progress.step):
                    with going_on(what), enough_to_show(what, self.state):
                        make()

    def end_early(self) -> None:
        """Make this step the last one; the run that is resumed with more patience knows nothing of it."""
        progress = self.progress
        way_on = f"{self.state.way_on()} training.patience={2 * self.state.best.waited}"
        text = "The run ends at step %d of %d: %s. To go on all the same: %s"
        log.info(text, progress.step, progress.total_steps, self.state.best.why(), way_on)
        if progress.saved_step != progress.step:
            self.state.save()
        progress.total_steps = progress.step

    def leave(self, stop: StopSignals, number: int) -> NoReturn:
        """Save after a signal, and say how to go on."""
        progress = self.progress
        if progress.saved_step != progress.step:
            self.state.save()
        if stop.requeue is not None and number == signal.SIGUSR2:
            stop.requeue(number, None)
        way_on = f"continue with: {self.state.way_on()}"
        raise Stopped(f"Stopped at step {progress.step} of {progress.total_steps}, saved; {way_on}", number)

    # ------------------------------------------------------------------------------- what is due after a step

    def log(self, bar: tqdm) -> None:
        """Write the means since the last log and start anew; a very long run takes them over longer and longer times.

        Waits for the device, once.
        """
        progress = self.progress
        self.state.check_finite()
        written = progress.finished or kept(progress.step // max(self.plan.log_every, 1))
        values = self.sums.means(anew=written)
        bar.set_postfix(loss=f"{values.get('train/loss') or 0.0:.4f}")
        if not written:
            return
        values["train/learning_rate"] = self.parts.optimizer.param_groups[0]["lr"]
        if self.plan.nonfinite == "skip":
            values["train/skipped_steps"] = progress.skipped
        values["train/images_per_second"] = self.stopwatch.rate(progress.step * self.plan.batch_size)
        self.tracker.scalars(values, progress.step)

    def save(self) -> None:
        """Write last.pt, once a step. Where there is no room the run goes on, unless this is the last."""
        if self.progress.saved_step != self.progress.step:
            with nullcontext() if self.progress.finished else going_on("the checkpoint"):
                self.state.save()

    def preview(self) -> None:
        """The grid and the loss on held-out images, both with the averaged weights; once a step."""
        monitor, step = self.monitor, self.progress.step
        if self.previewed == step:  # the run ended early, after this one
            return
        with self.stopwatch.paused():
            monitor.loss = None
            try:
                monitor.preview(step, self.number(self.plan.preview_every))
            finally:
                if self.plan.keep_by == HELD_OUT_LOSS:  # all processes wait for the first one's
                    loss = ranks.shared(monitor.loss)
                    self.state.judge(loss, loss)
        self.previewed = step

    def evaluate(self) -> dict[str, float | None]:
        """Score the averaged weights; the best so far are kept in best.pt. Once a step."""
        self.state.check_finite()
        step, name = self.progress.step, self.plan.keep_by
        if self.scored is not None and self.scored[0] == step:
            return self.scored[1]
        with self.stopwatch.paused():
            with ranks.together("The scores could not be measured"):
                images = self.monitor.score(step)
            scores = ranks.first_alone(lambda: self.monitor.report(images, step))
        if kept(self.number(self.plan.evaluate_every)):
            self.tracker.scalars(scores, step)
        if name != HELD_OUT_LOSS:
            self.state.judge(scores.get(name), ranks.shared(self.monitor.badness(name)))
        self.scored = step, scores
        return scores

    def tune(self) -> None:
        """Choose the guidance that is left open, on the finished model, and keep it with it; once a step."""
        tuned, step, config = self.header.get("tuned"), self.progress.step, self.header["config"]
        if tuned is None or tuned["step"] == step:
            return
        longest = math.inf if self.plan.seconds is None else tuning.LONGEST
        with self.stopwatch.paused():
            found = tuning.tune(self.monitor, tuned["settings"], step * self.plan.batch_size, longest)
        if found is not None:
            self.monitor.model.guidance = found
            chosen = {name.partition(".")[2]: value for name, value in tuning.values(found, tuned["settings"]).items()}
            config["guidance"] = {**config["guidance"], **chosen}
            tuned["step"], self.previewed, self.scored = step, None, None
            with going_on("the guidance that was chosen"):
                self.state.save()

    def number(self, every: int) -> int:
        """How many times something that is due every so many steps has been; the last time is as good as the first."""
        return 0 if self.progress.finished or not every else self.progress.step // every


@contextmanager
def going_on(what: str) -> Iterator[None]:
    """A block whose files are worth a warning, but not the run, where they cannot be written."""
    try:
        yield
    except (OSError, NotWritten) as error:
        log.warning("Training goes on, but %s could not be written: %s", what, brief(error, 400))

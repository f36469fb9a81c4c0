"""The training loop, from top to bottom in the order in which it runs.

Progress is counted in optimizer steps. Step k draws its images, noise, times and dropped labels from streams
addressed by (seed, k), for the whole batch at once and sliced afterwards, so neither micro-batches nor a resume change
them: N steps equal k steps, a kill, and N − k steps. Nothing in a step waits for the device; sums stay there until
they are logged.
"""

import logging
import math
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from diffusion.data.images import ImageData, batches, encode, pad_images
from diffusion.denoiser import Denoiser
from diffusion.ema import EMA, PowerEMA
from diffusion.guidance import ClassifierFree, Unconditional
from diffusion.loss import Weighted
from diffusion.records import checkpoint
from diffusion.records.tracking import Tracker
from diffusion.sampler.base import out_of_memory
from diffusion.system import ranks
from diffusion.system.device import Device
from diffusion.system.errors import NotWritten, UserError, brief
from diffusion.system.progress import progress_bar
from diffusion.system.randomness import TRAINING, stream
from diffusion.timesteps import Timesteps
from diffusion.training.interruption import Stopped, StopSignals, resume_command
from diffusion.training.monitor import Monitor
from diffusion.training.pacing import Pace, budget_seconds, learning_rate_factor, total_steps
from diffusion.training.profiling import profiling
from diffusion.training.running_sums import RunningSums, Stopwatch

log = logging.getLogger("diffusion")


@contextmanager
def going_on(what: str) -> Iterator[None]:
    """A block whose files are worth a warning, but not the run, where they cannot be written."""
    try:
        yield
    except (OSError, NotWritten) as error:
        log.warning("Training goes on, but %s could not be written: %s", what, brief(error, 400))


class Trainer:
    """Trains a denoiser.

    Args:
        denoiser: its network already on the device.
        ema: the average of that network.
        data: what it is trained on.
        guidance: drops labels.
        timesteps: u → t.
        loss: what is minimised.
        optimizer: parameters → optimizer.
        device: where and how.
        tracker: takes curves.
        monitor: draws grids and scores with the averaged weights.
        folder: of the run.
        seed: of all random numbers.
        header: what every checkpoint also holds: {"config": …, "image": …}.
        images, epochs, steps: length of the run; `steps` or `epochs`, when given, replace `images`.
        budget: or its length in time, "90s", "4min" or "1.5h", everything but previews and scores counted. Learning
            rate and `progress` then follow the clock, so such a run is not repeated bit by bit.
        batch_size: images per optimizer step.
        accumulate: micro-batches that a batch is split into, to save memory; the gradient is the same.
        clip_norm: largest norm of the gradient; null or 0 does not clip.
        nonfinite: when a loss or gradient is infinite or not a number: "stop" the run, or "skip" that step, which is
            counted in train/skipped_steps. Skipping waits for the device in every step; after 100 skipped steps in a
            row the run stops all the same.
        warmup: share of the run over which the learning rate rises from 0.
        decay: how it falls afterwards: "constant", "linear" or "cosine" (both to 0).
        log_every, checkpoint_every, preview_every, evaluate_every: in optimizer steps; 0 means never (checkpoints,
            previews and scores: only at the end).
        workers: processes that decode images, where they do not fit in memory.
        profile: steps to record with PyTorch's profiler; 0 is none. See `diffusion.training.profiling`.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        ema: EMA | PowerEMA,
        data: ImageData,
        guidance: ClassifierFree | Unconditional,
        timesteps: Timesteps,
        loss: Weighted,
        optimizer: Callable[..., torch.optim.Optimizer],
        device: Device,
        tracker: Tracker,
        monitor: Monitor,
        folder: Path,
        seed: int,
        header: dict[str, Any],
        images: int = 1_000_000,
        epochs: float | None = None,
        steps: int | None = None,
        budget: str | None = None,
        batch_size: int = 128,
        accumulate: int = 1,
        clip_norm: float | None = 1.0,
        nonfinite: str = "stop",
        warmup: float = 0.02,
        decay: str = "cosine",
        log_every: int = 50,
        checkpoint_every: int = 1000,
        preview_every: int = 1000,
        evaluate_every: int = 0,
        workers: int = 2,
        profile: int = 0,
    ) -> None:
        ranks.check_batch(batch_size, accumulate)
        if decay not in ("constant", "linear", "cosine"):
            raise ValueError(f"decay={decay} must be one of constant, linear, cosine")
        if nonfinite not in ("stop", "skip"):
            raise ValueError(f"nonfinite={nonfinite} must be stop or skip")
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup={warmup} is a share of the run and must lie in [0, 1)")
        if clip_norm is not None and clip_norm < 0:
            raise ValueError(f"clip_norm={clip_norm} must be positive, or 0 for no clipping")
        intervals = {"log_every": log_every, "checkpoint_every": checkpoint_every}
        intervals |= {"preview_every": preview_every, "evaluate_every": evaluate_every}
        for name, value in {**intervals, "workers": workers, "profile": profile}.items():
            if value < 0:
                raise ValueError(f"{name}={value} must be 0 or more")
        if workers > 256:
            raise ValueError(f"workers={workers} must be at most 256 processes")
        given = [f"{name}={value}" for name, value in (("steps", steps), ("epochs", epochs)) if value is not None]
        if budget is not None and given:
            raise ValueError(f"budget={budget} and {given[0]} both set the length: make one of them null")
        mine = ranks.share(batch_size)
        self.part = slice(mine.start, mine.stop)
        self.budget = None if budget is None else budget_seconds(budget)
        # With a budget an estimate, made anew after every step.
        self.total_steps = total_steps(images, epochs, steps, batch_size, len(data.train))
        self.denoiser, self.ema, self.data, self.guidance, self.timesteps = denoiser, ema, data, guidance, timesteps
        self.loss, self.device, self.tracker, self.folder, self.seed, self.header = (
            loss,
            device,
            tracker,
            folder,
            seed,
            header,
        )
        self.monitor, self.batch_size, self.accumulate = monitor, batch_size, accumulate
        self.clip_norm, self.warmup, self.decay, self.workers = clip_norm or math.inf, warmup, decay, workers
        self.skips, self.skipped, self.skipped_in_a_row = nonfinite == "skip", 0, 0
        self.log_every, self.checkpoint_every = log_every, checkpoint_every
        self.preview_every, self.evaluate_every, self.profile = preview_every, evaluate_every, profile
        self.network: nn.Module = denoiser.network
        self.replica: DistributedDataParallel | None = None
        self.parameters: list[Tensor] = list(self.network.parameters())
        self.optimizer = optimizer(self.parameters)
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.step = 0
        self.saved_step: int | None = None
        self.best: float | None = None
        self.sums = RunningSums(device.torch_device)
        self.stopwatch, self.spent = Stopwatch(), 0.0  # seconds of training before this start

    # ------------------------------------------------------------------------------------------- the loop

    def fit(self) -> dict[str, float | None]:
        """Train up to `total_steps`, save, then preview and score. Returns the final scores.

        Raises:
            Stopped: after Ctrl-C or SIGTERM; the state is saved.
            UserError: the loss is no longer finite, or a checkpoint cannot be written.
        """
        self.stopwatch.start(self.step * self.batch_size, self.spent)
        pace = None if self.budget is None else Pace(self.budget, self.step, self.total_steps)
        if pace is not None:
            self.total_steps = pace.steps(self.step, self.spent)
        self.replicate()
        if self.step == 0:
            self.save()
        self.network.train()
        scores: dict[str, float | None] = {}
        place = self.device.torch_device
        reader = batches(self.data.train, self.batch_size, self.seed, self.step, place, self.workers, self.part)
        total, done = self.total_steps * self.batch_size, self.step * self.batch_size
        profiler = profiling(self.profile if ranks.first() else 0, self.folder, self.device.torch_device)
        progress = progress_bar(total, "training", "images", initial=done)
        with StopSignals() as stop, profiler as profiled, progress as bar, closing(reader) as data:
            halt = self.agreed(stop)
            while self.step < self.total_steps and halt is None:
                self.train_step_or_say_why(next(data))
                with self.stopwatch.paused():
                    profiled()
                if pace is not None:
                    self.total_steps = pace.steps(self.step, self.stopwatch.spent())
                halt = self.agreed(stop)
                bar.total = self.total_steps * self.batch_size
                bar.update(self.batch_size)
                last = self.step == self.total_steps
                if last or self.due(self.log_every):
                    bar.set_postfix(loss=f"{self.log_sums():.4f}")
                if last:
                    self.save()
                elif self.due(self.checkpoint_every) or (ranks.size() > 1 and self.shows()):
                    with going_on("the checkpoint"):  # several processes cannot leave in the midst of what shows it
                        self.save()
                if halt is None and not last:
                    with stop.at_once():
                        if self.due(self.preview_every):
                            with going_on("the preview"):
                                self.show_preview()
                        if self.due(self.evaluate_every):
                            with going_on("the scores"):
                                self.evaluate()
                    if ranks.size() == 1 or self.shows():
                        halt = self.agreed(stop)
            bar.close()
            if halt is None:
                with stop.at_once():
                    self.show_preview()
                    scores = self.evaluate()
                halt = self.agreed(stop)
            if halt is not None:
                if self.saved_step != self.step:
                    self.save()
                if stop.requeue is not None and halt == signal.SIGUSR2:
                    stop.requeue(halt, None)
                way_on = f"continue with: {resume_command(self.folder)}"
                raise Stopped(f"Stopped at step {self.step} of {self.total_steps}, saved; {way_on}", halt)
        return scores

    def replicate(self) -> None:
        """Where there are several processes, let their gradients be averaged in each backward pass."""
        if ranks.size() > 1:
            self.replica = DistributedDataParallel(self.network, broadcast_buffers=False)
            self.denoiser.network = self.replica

    def gradients_stay_here(self) -> AbstractContextManager:
        """A block whose backward pass adds to this process's gradients alone."""
        return nullcontext() if self.replica is None else self.replica.no_sync()

    def agreed(self, stop: StopSignals) -> int | None:
        """The signal that any process got; all then stop after the same step, and the clock of the first counts."""
        if ranks.size() > 1:
            mine = self.total_steps if ranks.first() else 0
            number, self.total_steps = ranks.largest(stop.number or 0, mine)
            return number or None
        return stop.number

    def train_step_or_say_why(self, batch: tuple[Tensor, Tensor | None]) -> None:
        """`train_step`, with a sentence that names the way on where the memory is too small for it."""
        try:
            self.train_step(batch)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            mine = self.batch_size // ranks.size()
            micro = mine // self.accumulate
            more = next((k for k in range(self.accumulate + 1, mine + 1) if not mine % k), None)
            way_on = "only a smaller model or image fits"
            if more is not None:
                way_on = (
                    f"training.accumulate={more} takes {mine // more} at once and gives the same gradient: "
                    f"{resume_command(self.folder)} training.accumulate={more}"
                )
            raise UserError(
                f"The memory is too small for the {micro} images that training.batch_size={self.batch_size} with "
                f"training.accumulate={self.accumulate} takes at once; {way_on}."
            ) from error

    def train_step(self, batch: tuple[Tensor, Tensor | None]) -> None:
        """One optimizer step: this process's images, uint8 (b, C, H, W) and labels (b,) or None, of a batch of B.

        All random numbers are those of the whole batch, so that it does not matter how many processes share it.
        """
        images, labels = batch
        x_0 = pad_images(images, self.data.padding).to(memory_format=self.device.memory_format)
        generator = stream(self.seed, TRAINING, self.step, device=self.device.torch_device)
        u_time, u_label = torch.rand(2, self.batch_size, generator=generator, device=images.device)
        noise = torch.randn((self.batch_size, *x_0.shape[1:]), generator=generator, device=images.device)[self.part]
        every_t = self.timesteps(u_time)
        weight, progress = self.timesteps.weight(every_t), self.step / self.total_steps
        t, weight = every_t[self.part], weight[self.part] if isinstance(weight, Tensor) else weight
        labels = self.guidance.drop(labels, u_label[self.part], self.denoiser.num_classes)

        for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * learning_rate_factor(self.step, self.total_steps, self.warmup, self.decay)
        micro, parts = len(t) // self.accumulate, []
        for first in range(0, len(t), micro):
            part, last = slice(first, first + micro), first + micro == len(t)
            with self.gradients_stay_here() if not last else nullcontext():
                with self.device.autocast():
                    chosen = None if labels is None else labels[part]
                    losses = self.loss(self.denoiser, encode(x_0[part]), t[part], noise[part], chosen, progress)
                weighted = losses * (weight[part] if isinstance(weight, Tensor) else weight)
                (weighted.sum() * (ranks.size() / self.batch_size)).backward()
            parts.append((losses.detach(), weighted.detach()))
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        losses, weighted = (torch.cat(each) for each in zip(*parts, strict=True))
        if self.skips and any(ranks.largest(not bool(torch.isfinite(norm + weighted.sum())))):
            self.skip()
            return
        with self.device.autocast():  # Muon multiplies matrices
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.network)
        if ranks.size() > 1 and type(self.timesteps).observe is not Timesteps.observe:
            self.timesteps.observe(every_t, ranks.gather(losses, self.batch_size))
        else:
            self.timesteps.observe(t, losses)
        self.sums.add_losses(losses, weighted, t, self.batch_size)
        self.sums.add_step(norm)
        self.step, self.skipped_in_a_row = self.step + 1, 0

    def skip(self) -> None:
        """Leave the weights as they are, after a loss or gradient that is not finite."""
        self.optimizer.zero_grad(set_to_none=True)
        self.skipped, self.skipped_in_a_row = self.skipped + 1, self.skipped_in_a_row + 1
        log.warning("Step %d is skipped: its loss or gradient is not finite (%d so far).", self.step, self.skipped)
        if self.skipped_in_a_row == 100:
            raise UserError(
                f"100 steps in a row had a loss or gradient that is not finite: the run stops at step {self.step}, and "
                f"{self.last_good()}. Try a lower optimizer.lr (now {self.base_rates[0]:g}) or device.precision=fp32 "
                "in a new run."
            )
        self.step += 1

    def due(self, every: int) -> bool:
        """Whether something that happens every so many steps happens after this one."""
        return every > 0 and self.step % every == 0

    def shows(self) -> bool:
        """Whether a preview or scores come after this step."""
        return self.due(self.preview_every) or self.due(self.evaluate_every)

    # ------------------------------------------------------------------------------------- what is logged

    def log_sums(self) -> float:
        """Write the means since the last log and start anew; the mean loss. Waits for the device, once."""
        self.check_finite()
        values = self.sums.means()
        values["train/learning_rate"] = self.optimizer.param_groups[0]["lr"]
        if self.skips:
            values["train/skipped_steps"] = self.skipped
        values["train/images_per_second"] = self.stopwatch.rate(self.step * self.batch_size)
        self.tracker.scalars(values, self.step)
        return values.get("train/loss") or 0.0

    def check_finite(self) -> None:
        """Raise `UserError` when a loss, a gradient or a weight is infinite or not a number."""
        fine = self.sums.finite() and bool(torch.stack(torch._foreach_norm(self.parameters)).isfinite().all())
        if not any(ranks.largest(not fine)):
            return
        raise UserError(
            f"The loss is no longer finite, noticed at step {self.step}: the run stops and {self.last_good()}. Try a "
            f"lower optimizer.lr (now {self.base_rates[0]:g}), training.clip_norm=1, training.nonfinite=skip or "
            "device.precision=fp32 in a new run."
        )

    def last_good(self) -> str:
        """Where to go on from, in words."""
        return f"its last good checkpoint is {self.folder / 'last.pt'}, of step {self.saved_step}"

    def show_preview(self) -> None:
        """The grid and the loss on held-out images, both with the averaged weights."""
        with self.stopwatch.paused():
            self.monitor.preview(self.step)

    def evaluate(self) -> dict[str, float | None]:
        """Score the averaged weights; the best so far are kept in best.pt."""
        self.check_finite()
        scores, failure = {}, None
        with self.stopwatch.paused():
            try:
                scores = self.monitor.score(self.step)
            except OSError as error:  # of what the first process writes; the others wait for its scores
                if not ranks.first():
                    raise RuntimeError(f"process {ranks.rank()} could not score") from error
                failure = error
            scores, failure = ranks.shared((scores, failure))
        if failure is not None:
            raise failure
        self.tracker.scalars(scores, self.step)
        fid = scores.get("score/fid")
        if fid is not None and (self.best is None or fid < self.best):
            self.write("best.pt", {**self.state_dict(), "best": fid})
            self.best = fid
            self.save()  # so that a resumed run knows of this best
        return scores

    # ---------------------------------------------------------------------------------------- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs."""
        return {
            **self.header,
            "step": self.step,
            "total_steps": self.total_steps,
            "network": self.network.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "timesteps": self.timesteps.state_dict(),
            "sums": self.sums.gathered(),
            "best": self.best,
            "skipped": self.skipped,
            "seconds": self.stopwatch.spent(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        if state["step"] > self.total_steps and self.budget is None:
            raise UserError(
                f"resume: the run is already at step {state['step']}, beyond the {self.total_steps} steps asked for; "
                "give a larger training.steps, epochs, images or budget."
            )
        self.network.load_state_dict(state["network"])
        self.ema.load_state_dict(state["ema"])
        self.timesteps.load_state_dict(state.get("timesteps", {}))
        self.optimizer.load_state_dict(state["optimizer"])
        for parameter, moments in self.optimizer.state.items():
            for name, value in moments.items():
                # Fused optimizers need the memory layout of the parameter itself.
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    moments[name] = torch.empty_like(parameter).copy_(value)
        if ranks.first():
            self.sums.values.copy_(state["sums"])
        self.step, self.saved_step = state["step"], state["step"]
        self.best = None if state["best"] is None else float(state["best"])
        self.spent, self.skipped = float(state.get("seconds", 0.0)), int(state.get("skipped", 0))
        if self.budget is not None:
            if self.spent >= self.budget and self.step < state["total_steps"]:
                raise UserError(
                    f"resume: the run has trained for {self.spent:.0f} s already, and training.budget is "
                    f"{self.budget:.0f} s: give a larger one."
                )
            self.total_steps = max(state["total_steps"], self.step)

    def save(self) -> None:
        """Write last.pt, unless a loss or a weight is no longer finite (then `UserError`)."""
        self.check_finite()
        self.write(checkpoint.LAST, self.state_dict())
        self.saved_step = self.step

    def write(self, name: str, state: dict[str, Any]) -> None:
        """Write a checkpoint, by the first process; a failure is raised in all of them."""
        failure = None
        if ranks.first():
            try:
                if name == checkpoint.LAST:
                    checkpoint.keep_previous(self.folder)
                checkpoint.save(self.folder / name, state)
            except NotWritten as error:
                failure = error
        failure = ranks.shared(failure)
        if failure is not None:
            raise failure

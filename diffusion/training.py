"""The training loop, from top to bottom in the order in which it runs.

Progress is counted in optimizer steps. Step k draws its images, noise, times and dropped labels from streams
addressed by (seed, k), for the whole batch at once and sliced afterwards, so neither micro-batches nor a resume change
them: N steps equal k steps, a kill, and N − k steps. Nothing in a step waits for the device; sums stay there until
they are logged.
"""

import logging
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from diffusion import checkpoint
from diffusion.data import ImageData, batches, encode, pad_images
from diffusion.denoiser import Denoiser
from diffusion.device import Device
from diffusion.ema import EMA
from diffusion.errors import UserError
from diffusion.guidance import ClassifierFree, Unconditional
from diffusion.monitor import Monitor
from diffusion.randomness import HELD_OUT, TRAINING, stream
from diffusion.tracking import Tracker

log = logging.getLogger("diffusion")
LEVELS = 5  # noise levels t in (0, 0.2], (0.2, 0.4], … whose losses are logged apart


class Stopped(KeyboardInterrupt):
    """Training was stopped by a signal, after saving. Derived from KeyboardInterrupt so that it ends a sweep."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class Trainer:
    """Trains a denoiser.

    Args:
        denoiser: its network already on the device.
        ema: the average of that network.
        data: what it is trained on.
        guidance: drops labels.
        timesteps: u → t.
        optimizer: parameters → optimizer.
        device: where and how.
        tracker: takes curves.
        monitor: draws grids and scores with the averaged weights.
        folder: of the run.
        seed: of all random numbers.
        header: what every checkpoint also holds: {"config": …, "image": …}.
        images, epochs, steps: length of the run; `steps` or `epochs`, when given, replace `images`.
        batch_size: images per optimizer step.
        accumulate: micro-batches that a batch is split into, to save memory; the gradient is the same.
        clip_norm: largest norm of the gradient; null or 0 does not clip.
        warmup: share of the run over which the learning rate rises from 0.
        decay: how it falls afterwards: "constant", "linear" or "cosine" (both to 0).
        log_every, checkpoint_every, preview_every, evaluate_every: in optimizer steps; 0 means never (checkpoints,
            previews and scores: only at the end).
        held_out: number of test images whose loss is measured with each preview.
        workers: processes that decode images, where they do not fit in memory.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        ema: EMA,
        data: ImageData,
        guidance: ClassifierFree | Unconditional,
        timesteps: Callable[[Tensor], Tensor],
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
        batch_size: int = 128,
        accumulate: int = 1,
        clip_norm: float | None = 1.0,
        warmup: float = 0.02,
        decay: str = "cosine",
        log_every: int = 50,
        checkpoint_every: int = 1000,
        preview_every: int = 1000,
        evaluate_every: int = 0,
        held_out: int = 512,
        workers: int = 2,
    ) -> None:
        if batch_size < 1 or accumulate < 1 or batch_size % accumulate:
            raise ValueError(f"accumulate={accumulate} must be at least 1 and divide batch_size={batch_size}")
        if decay not in ("constant", "linear", "cosine"):
            raise ValueError(f"decay={decay} must be one of constant, linear, cosine")
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup={warmup} is a share of the run and must lie in [0, 1)")
        if clip_norm is not None and clip_norm < 0:
            raise ValueError(f"clip_norm={clip_norm} must be positive, or 0 for no clipping")
        intervals = {"log_every": log_every, "checkpoint_every": checkpoint_every}
        intervals |= {"preview_every": preview_every, "evaluate_every": evaluate_every}
        for name, value in {**intervals, "held_out": held_out, "workers": workers}.items():
            if value < 0:
                raise ValueError(f"{name}={value} must be 0 or more")
        self.total_steps = total_steps(images, epochs, steps, batch_size, len(data.train))
        self.denoiser, self.ema, self.data, self.guidance, self.timesteps = denoiser, ema, data, guidance, timesteps
        self.device, self.tracker, self.folder, self.seed, self.header = device, tracker, folder, seed, header
        self.monitor, self.batch_size, self.accumulate = monitor, batch_size, accumulate
        self.clip_norm, self.warmup, self.decay, self.workers = clip_norm or math.inf, warmup, decay, workers
        self.log_every, self.checkpoint_every = log_every, checkpoint_every
        self.preview_every, self.evaluate_every, self.held_out = preview_every, evaluate_every, held_out
        self.parameters = list(denoiser.network.parameters())
        self.optimizer = optimizer(self.parameters)
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.step = 0
        self.saved_step: int | None = None
        self.best: float | None = None
        # On the device until logged: loss, gradient norm, steps, then loss and number of images per noise level.
        self.sums = torch.zeros(3 + 2 * LEVELS, device=device.torch_device)
        self.logged = (0, time.perf_counter())

    # ------------------------------------------------------------------------------------------- the loop

    def fit(self) -> dict[str, float | None]:
        """Train up to `total_steps`, then preview, score and save. Returns the final scores.

        Raises:
            Stopped: after Ctrl-C or SIGTERM; the state is saved.
            UserError: the loss is no longer finite, or a checkpoint cannot be written.
        """
        if self.step == 0:
            self.save()
        self.denoiser.network.train()
        data = batches(self.data.train, self.batch_size, self.seed, self.step, self.device.torch_device, self.workers)
        self.logged = (self.step, time.perf_counter())
        with stop_signals() as stop, self.progress() as bar:
            while self.step < self.total_steps:
                loss_is_due = self.train_step(next(data))
                bar.update(self.batch_size)
                if loss_is_due:
                    bar.set_postfix(loss=f"{self.log_sums():.4f}")
                last = self.step == self.total_steps
                if self.due(self.preview_every) and not last:
                    self.show_preview()
                if self.due(self.evaluate_every) and not last:
                    self.evaluate()
                if stop or last or self.due(self.checkpoint_every):
                    self.save()
                if stop:
                    way_on = f"continue with: {resume_command(self.folder)}"
                    raise Stopped(f"Stopped at step {self.step} of {self.total_steps}, saved; {way_on}", stop[0])
        self.show_preview()
        scores = self.evaluate()
        self.save()
        return scores

    def train_step(self, batch: tuple[Tensor, Tensor | None]) -> bool:
        """One optimizer step on a global batch; True when the sums are to be logged."""
        images, labels = batch
        x_0 = pad_images(images, self.data.padding).to(memory_format=self.device.memory_format)
        generator = stream(self.seed, TRAINING, self.step, device=self.device.torch_device)
        u_time, u_label = torch.rand(2, self.batch_size, generator=generator, device=images.device)
        noise = torch.randn(x_0.shape, generator=generator, device=images.device)
        t = self.timesteps(u_time)
        labels = self.guidance.drop(labels, u_label, self.denoiser.num_classes)

        for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * learning_rate_factor(self.step, self.total_steps, self.warmup, self.decay)
        micro = self.batch_size // self.accumulate
        for first in range(0, self.batch_size, micro):
            part = slice(first, first + micro)
            with self.device.autocast():
                losses = self.denoiser.loss(
                    encode(x_0[part]), t[part], noise[part], None if labels is None else labels[part]
                )
            (losses.sum() / self.batch_size).backward()
            self.add_to_sums(losses.detach(), t[part])
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.denoiser.network)
        self.sums[1] += norm
        self.sums[2] += 1
        self.step += 1
        return self.due(self.log_every) or self.step == self.total_steps

    def due(self, every: int) -> bool:
        """Whether something that happens every so many steps happens after this one."""
        return every > 0 and self.step % every == 0

    def progress(self) -> tqdm:
        """A bar that counts images, so that it shows images per second and the time left."""
        return tqdm(
            total=self.total_steps * self.batch_size,
            initial=self.step * self.batch_size,
            desc="training",
            unit=" images",
            unit_scale=True,
            mininterval=0.5 if sys.stderr.isatty() else 30,
        )

    # ------------------------------------------------------------------------------------- what is logged

    def add_to_sums(self, losses: Tensor, t: Tensor) -> None:
        """Add the losses (b,) of images at times t (b,), in all and per noise level."""
        level = (t * LEVELS).ceil().long().clamp(1, LEVELS) - 1
        self.sums[0] += losses.sum() / self.batch_size
        self.sums.index_add_(0, 3 + level, losses)
        self.sums.index_add_(0, 3 + LEVELS + level, torch.ones_like(losses))

    def log_sums(self) -> float:
        """Write the means since the last log and start anew; the mean loss. Waits for the device, once."""
        self.check_finite()
        loss, norm, count, *levels = self.sums.tolist()
        self.sums.zero_()
        step, since = self.logged
        self.logged = (self.step, time.perf_counter())
        rate = (self.step - step) * self.batch_size / max(self.logged[1] - since, 1e-9)
        values: dict[str, float | None] = {
            "train/loss": loss / count,
            "train/grad_norm": norm / count,
            "train/learning_rate": self.optimizer.param_groups[0]["lr"],
            "train/images_per_second": rate,
        }
        for i in range(LEVELS):
            seen = levels[LEVELS + i]
            values[f"noise_level/{i / LEVELS:.1f}-{(i + 1) / LEVELS:.1f}"] = levels[i] / seen if seen else None
        self.tracker.scalars(values, self.step)
        return loss / count

    def check_finite(self) -> None:
        """Raise `UserError` when a loss or gradient since the last log was infinite or not a number."""
        if bool(self.sums[:2].isfinite().all()):
            return
        last_good = f"its last good checkpoint is of step {self.saved_step}"
        raise UserError(
            f"The loss is no longer finite, noticed at step {self.step}: the run stops and {last_good}. Try a lower "
            f"optimizer.lr (now {self.base_rates[0]:g}), training.clip_norm=1 or device.precision=fp32 in a new run."
        )

    def show_preview(self) -> None:
        """The grid and the loss on held-out images, both with the averaged weights."""
        with self.paused():
            self.monitor.preview(self.step)
            if self.held_out and len(self.data.test):
                self.tracker.scalars({"held_out/loss": self.held_out_loss()}, self.step)

    def evaluate(self) -> dict[str, float | None]:
        """Score the averaged weights; the best so far are kept in best.pt."""
        with self.paused():
            scores = self.monitor.score(self.step)
        self.tracker.scalars(scores, self.step)
        fid = scores.get("score/fid")
        if fid is not None and (self.best is None or fid < self.best):
            self.best = fid
            checkpoint.save(self.folder / "best.pt", self.state_dict())
        return scores

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent inside does not count as training time."""
        start = time.perf_counter()
        yield
        step, since = self.logged
        self.logged = (step, since + time.perf_counter() - start)

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """Mean loss of the averaged weights on test images, with the same noise and times at every call."""
        n = min(self.held_out, len(self.data.test))
        generator = stream(self.seed, HELD_OUT)
        images, labels = self.data.test.select(torch.arange(n))
        x_0 = encode(pad_images(images, self.data.padding))
        times = self.timesteps((torch.arange(n) + torch.rand(n, generator=generator)) / n)
        noise = torch.randn(x_0.shape, generator=generator)
        denoiser = Denoiser(self.ema.network, self.denoiser.schedule, self.denoiser.objective)
        labels = self.guidance.drop(labels, torch.ones(n), self.denoiser.num_classes)
        total, place = 0.0, self.device.torch_device
        for part in torch.arange(n).split(self.batch_size // self.accumulate):
            part_labels = None if labels is None else labels[part].to(place)
            with self.device.autocast():
                losses = denoiser.loss(x_0[part].to(place), times[part].to(place), noise[part].to(place), part_labels)
            total += float(losses.sum())
        return total / n

    # ---------------------------------------------------------------------------------------- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs."""
        return {
            **self.header,
            "step": self.step,
            "total_steps": self.total_steps,
            "network": self.denoiser.network.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sums": self.sums,
            "best": self.best,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.denoiser.network.load_state_dict(state["network"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.sums.copy_(state["sums"])
        self.step, self.best, self.saved_step = state["step"], state["best"], state["step"]

    def save(self) -> None:
        """Write last.pt, unless the loss or a weight is no longer finite (then `UserError`)."""
        self.check_finite()
        if not bool(torch.stack(torch._foreach_norm(self.parameters)).isfinite().all()):
            self.sums[0] = math.nan
            self.check_finite()
        checkpoint.save(self.folder / "last.pt", self.state_dict())
        self.saved_step = self.step


def total_steps(images: int, epochs: float | None, steps: int | None, batch_size: int, size: int) -> int:
    """Length of a run in optimizer steps; `ValueError` when it is not positive or given twice."""
    if steps is not None and epochs is not None:
        raise ValueError(f"steps={steps} and epochs={epochs} both set the length: give one of them")
    if steps is None:
        steps = math.ceil((images if epochs is None else epochs * size) / batch_size)
    if steps < 1:
        raise ValueError(f"steps={steps}: the run must have at least one step (see training.images, epochs, steps)")
    return steps


def learning_rate_factor(step: int, total: int, warmup: float, decay: str) -> float:
    """What the learning rate of step 0 … total − 1 is multiplied with: a linear rise, then a fall towards 0."""
    rise = warmup * total
    if step < rise:
        return (step + 1) / (math.ceil(rise) + 1)
    if decay == "constant":
        return 1.0
    done = (step - rise) / (total - rise)
    return 1 - done if decay == "linear" else 0.5 * (1 + math.cos(math.pi * done))


def resume_command(folder: Path) -> str:
    """What a person types to go on with a run."""
    return f"python train.py resume={os.path.relpath(folder)}"


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM in a list instead of dying; a second one acts as usual."""
    received: list[int] = []
    before: dict[int, Any] = {}

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for signal_number, handler in before.items():
            signal.signal(signal_number, handler)
        log.warning("Stopping after this step; press Ctrl-C again to leave at once.")

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, receive)
    except ValueError:  # only the main thread may set handlers; elsewhere signals act as usual
        pass
    try:
        yield received
    finally:
        for signal_number, handler in before.items():
            signal.signal(signal_number, handler)

"""The training loop, from top to bottom in the order in which it runs.

Progress is counted in optimizer steps. Step k draws its images, noise, times and dropped labels from streams
addressed by (seed, k), for the whole batch at once and sliced afterwards, so neither micro-batches nor a resume change
them: N steps equal k steps, a kill, and N − k steps. Nothing in a step waits for the device; sums stay there until
they are logged.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion import checkpoint
from diffusion.data import ImageData, batches, encode, pad_images
from diffusion.denoiser import Denoiser
from diffusion.device import Device
from diffusion.ema import EMA, PowerEMA
from diffusion.errors import UserError
from diffusion.guidance import ClassifierFree, Unconditional
from diffusion.interruption import Stopped, StopSignals, resume_command
from diffusion.loss import Weighted
from diffusion.monitor import Monitor
from diffusion.pacing import Pace, budget_seconds, learning_rate_factor, total_steps
from diffusion.profiling import profiling
from diffusion.progress import progress_bar
from diffusion.randomness import TRAINING, stream
from diffusion.running_sums import RunningSums, Stopwatch
from diffusion.timesteps import Timesteps
from diffusion.tracking import Tracker


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
        warmup: share of the run over which the learning rate rises from 0.
        decay: how it falls afterwards: "constant", "linear" or "cosine" (both to 0).
        log_every, checkpoint_every, preview_every, evaluate_every: in optimizer steps; 0 means never (checkpoints,
            previews and scores: only at the end).
        workers: processes that decode images, where they do not fit in memory.
        profile: steps to record with PyTorch's profiler; 0 is none. See `diffusion.profiling`.
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
        warmup: float = 0.02,
        decay: str = "cosine",
        log_every: int = 50,
        checkpoint_every: int = 1000,
        preview_every: int = 1000,
        evaluate_every: int = 0,
        workers: int = 2,
        profile: int = 0,
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
        for name, value in {**intervals, "workers": workers, "profile": profile}.items():
            if value < 0:
                raise ValueError(f"{name}={value} must be 0 or more")
        given = [f"{name}={value}" for name, value in (("steps", steps), ("epochs", epochs)) if value is not None]
        if budget is not None and given:
            raise ValueError(f"budget={budget} and {given[0]} both set the length: make one of them null")
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
        self.log_every, self.checkpoint_every = log_every, checkpoint_every
        self.preview_every, self.evaluate_every, self.profile = preview_every, evaluate_every, profile
        self.parameters: list[Tensor] = list(denoiser.network.parameters())
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
        if self.step == 0:
            self.save()
        self.denoiser.network.train()
        scores: dict[str, float | None] = {}
        data = batches(self.data.train, self.batch_size, self.seed, self.step, self.device.torch_device, self.workers)
        total, done = self.total_steps * self.batch_size, self.step * self.batch_size
        profiler = profiling(self.profile, self.folder, self.device.torch_device)
        progress = progress_bar(total, "training", "images", initial=done)
        with StopSignals() as stop, profiler as profiled, progress as bar:
            while self.step < self.total_steps and stop.number is None:
                self.train_step(next(data))
                with self.stopwatch.paused():
                    profiled()
                if pace is not None:
                    self.total_steps = pace.steps(self.step, self.stopwatch.spent())
                bar.total = self.total_steps * self.batch_size
                bar.update(self.batch_size)
                last = self.step == self.total_steps
                if last or self.due(self.log_every):
                    bar.set_postfix(loss=f"{self.log_sums():.4f}")
                if last or self.due(self.checkpoint_every):
                    self.save()
                if stop.number is None and not last:
                    with stop.at_once():
                        if self.due(self.preview_every):
                            self.show_preview()
                        if self.due(self.evaluate_every):
                            self.evaluate()
            bar.close()
            if stop.number is None:
                with stop.at_once():
                    self.show_preview()
                    scores = self.evaluate()
            if stop.number is not None:
                if self.saved_step != self.step:
                    self.save()
                way_on = f"continue with: {resume_command(self.folder)}"
                raise Stopped(f"Stopped at step {self.step} of {self.total_steps}, saved; {way_on}", stop.number)
        return scores

    def train_step(self, batch: tuple[Tensor, Tensor | None]) -> None:
        """One optimizer step on a global batch: images uint8 (B, C, H, W) and labels (B,) or None."""
        images, labels = batch
        x_0 = pad_images(images, self.data.padding).to(memory_format=self.device.memory_format)
        generator = stream(self.seed, TRAINING, self.step, device=self.device.torch_device)
        u_time, u_label = torch.rand(2, self.batch_size, generator=generator, device=images.device)
        noise = torch.randn(x_0.shape, generator=generator, device=images.device)
        t = self.timesteps(u_time)
        weight, progress = self.timesteps.weight(t), self.step / self.total_steps
        labels = self.guidance.drop(labels, u_label, self.denoiser.num_classes)

        for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * learning_rate_factor(self.step, self.total_steps, self.warmup, self.decay)
        micro, seen = self.batch_size // self.accumulate, []
        for first in range(0, self.batch_size, micro):
            part = slice(first, first + micro)
            with self.device.autocast():
                chosen = None if labels is None else labels[part]
                losses = self.loss(self.denoiser, encode(x_0[part]), t[part], noise[part], chosen, progress)
            weighted = losses * (weight[part] if isinstance(weight, Tensor) else weight)
            (weighted.sum() / self.batch_size).backward()
            seen.append(losses.detach())
            self.sums.add_losses(losses.detach(), weighted.detach(), t[part], self.batch_size)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        with self.device.autocast():  # Muon multiplies matrices
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.denoiser.network)
        self.timesteps.observe(t, torch.cat(seen))
        self.sums.add_step(norm)
        self.step += 1

    def due(self, every: int) -> bool:
        """Whether something that happens every so many steps happens after this one."""
        return every > 0 and self.step % every == 0

    # ------------------------------------------------------------------------------------- what is logged

    def log_sums(self) -> float:
        """Write the means since the last log and start anew; the mean loss. Waits for the device, once."""
        self.check_finite()
        values = self.sums.means()
        values["train/learning_rate"] = self.optimizer.param_groups[0]["lr"]
        values["train/images_per_second"] = self.stopwatch.rate(self.step * self.batch_size)
        self.tracker.scalars(values, self.step)
        return values["train/loss"] or 0.0

    def check_finite(self) -> None:
        """Raise `UserError` when a loss, a gradient or a weight is infinite or not a number."""
        if self.sums.finite() and bool(torch.stack(torch._foreach_norm(self.parameters)).isfinite().all()):
            return
        last_good = f"its last good checkpoint is {self.folder / 'last.pt'}, of step {self.saved_step}"
        raise UserError(
            f"The loss is no longer finite, noticed at step {self.step}: the run stops and {last_good}. Try a lower "
            f"optimizer.lr (now {self.base_rates[0]:g}), training.clip_norm=1 or device.precision=fp32 in a new run."
        )

    def show_preview(self) -> None:
        """The grid and the loss on held-out images, both with the averaged weights."""
        with self.stopwatch.paused():
            self.monitor.preview(self.step)

    def evaluate(self) -> dict[str, float | None]:
        """Score the averaged weights; the best so far are kept in best.pt."""
        self.check_finite()
        with self.stopwatch.paused():
            scores = self.monitor.score(self.step)
        self.tracker.scalars(scores, self.step)
        fid = scores.get("score/fid")
        if fid is not None and (self.best is None or fid < self.best):
            checkpoint.save(self.folder / "best.pt", {**self.state_dict(), "best": fid})
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
            "network": self.denoiser.network.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "timesteps": self.timesteps.state_dict(),
            "sums": self.sums.values,
            "best": self.best,
            "seconds": self.stopwatch.spent(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        if state["step"] > self.total_steps and self.budget is None:
            raise UserError(
                f"resume: the run is already at step {state['step']}, beyond the {self.total_steps} steps asked for; "
                "give a larger training.steps, epochs, images or budget."
            )
        self.denoiser.network.load_state_dict(state["network"])
        self.ema.load_state_dict(state["ema"])
        self.timesteps.load_state_dict(state.get("timesteps", {}))
        self.optimizer.load_state_dict(state["optimizer"])
        for parameter, moments in self.optimizer.state.items():
            for name, value in moments.items():
                # Fused optimizers need the memory layout of the parameter itself.
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    moments[name] = torch.empty_like(parameter).copy_(value)
        self.sums.values.copy_(state["sums"])
        self.step, self.best, self.saved_step = state["step"], state["best"], state["step"]
        self.spent = float(state.get("seconds", 0.0))
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
        checkpoint.save(self.folder / "last.pt", self.state_dict())
        self.saved_step = self.step

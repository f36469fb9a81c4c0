"""What a run keeps of itself: its newest checkpoint, the one before, and the best ones (best.py)."""

import math
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion.records import checkpoint
from diffusion.system import ranks
from diffusion.system.errors import NotWritten, UserError
from diffusion.training import threads
from diffusion.training.best import Best, Kept
from diffusion.training.interruption import resume_command
from diffusion.training.parts import Parts, Progress
from diffusion.training.plan import Plan
from diffusion.training.running_sums import RunningSums, Stopwatch

MOST_SKIPPED = 100  # steps in a row


@dataclass(eq=False, repr=False)
class State:
    """Saves and restores a run.

    Args:
        parts, plan, progress, sums, stopwatch, folder, header: those of the run's `Trainer`.
        spent: seconds of training before this start.
    """

    parts: Parts
    plan: Plan
    progress: Progress
    sums: RunningSums
    stopwatch: Stopwatch
    folder: Path
    header: dict[str, Any]
    spent: float = 0.0

    def __post_init__(self) -> None:
        self.best = Best(self.plan, self.folder)

    def state_dict(self, sums: Tensor | None = None) -> dict[str, Any]:
        """All that a resumed run needs; the running sums are those of all processes, unless others are given."""
        parts, progress = self.parts, self.progress
        return {
            **self.header,
            "step": progress.step,
            "total_steps": progress.total_steps,
            "network": parts.network.state_dict(),
            "ema": parts.ema.state_dict(),
            "optimizer": parts.optimizer.state_dict(),
            "timesteps": parts.timesteps.state_dict(),
            "sums": ranks.total(self.sums.values) if sums is None else sums,
            **self.best.state_dict(),
            "threads": progress.threads,
            "skipped": progress.skipped,
            "seconds": self.stopwatch.spent(),
        }

    def way_on(self) -> str:
        """The command that goes on with the run."""
        return resume_command(self.folder, self.header.get("own_parts", ()))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; `UserError` where nothing of the run is left to do."""
        parts, progress, budget = self.parts, self.progress, self.plan.seconds
        if state["step"] > progress.total_steps and budget is None:
            raise UserError(
                f"resume: the run is already at step {state['step']}, beyond the {progress.total_steps} steps asked "
                "for; give a larger training.steps, epochs, images or budget."
            )
        parts.network.load_state_dict(state["network"])
        parts.ema.load_state_dict(state["ema"])
        parts.timesteps.load_state_dict(state.get("timesteps", {}))
        parts.optimizer.load_state_dict(state["optimizer"])
        for parameter, moments in parts.optimizer.state.items():
            for name, value in moments.items():
                # Fused optimizers need the memory layout of the parameter itself.
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    moments[name] = torch.empty_like(parameter).copy_(value)
        if ranks.first():
            self.sums.values.copy_(state["sums"])
        progress.step, progress.saved_step = state["step"], state["step"]
        ranks.first_alone(lambda: self.best.load_state_dict(state))
        best = self.best
        best.kept, best.waited, best.judged = ranks.shared((best.kept, best.waited, best.judged))
        self.spent, progress.skipped = float(state.get("seconds", 0.0)), int(state.get("skipped", 0))
        progress.threads = threads.restore(parts, state.get("threads"))
        if budget is not None:
            if self.spent >= budget and progress.step < state["total_steps"]:
                raise UserError(
                    f"resume: the run has trained for {self.spent:.0f} s already, and training.budget is "
                    f"{budget:.0f} s: give a larger one."
                )
            progress.total_steps = max(state["total_steps"], progress.step)

    def save(self) -> None:
        """Write last.pt, unless a loss or a weight is no longer finite (then `UserError`)."""
        self.check_finite()
        self.write(checkpoint.LAST, self.state_dict())
        self.progress.saved_step = self.progress.step

    def judge(self, value: float | None, badness: float | None) -> None:
        """Keep a checkpoint of this step if it is among the best by its score; see `diffusion.evaluation.ranking`."""
        best, step = self.best, self.progress.step
        if best.judged == step:  # of a run that is resumed after its end
            return
        if value is None or badness is None or not math.isfinite(badness):
            best.missing()
            return
        new = Kept(step, value, badness)
        if any(each.step == step for each in best.kept):
            return
        after = best.with_new(new)
        after, fallen = after[: self.plan.keep], after[self.plan.keep :]
        then = replace(best, kept=after, waited=0 if new is after[0] else best.waited + 1, judged=step)
        if new in after:
            state = {**self.state_dict(), **then.state_dict()}
            ranks.first_alone(lambda: best.write(step, new is after[0], state))
        best.kept, best.waited, best.judged = then.kept, then.waited, then.judged
        if new in after or best.asked:
            self.save()  # so that a resumed run knows
        ranks.first_alone(lambda: best.remove([each for each in fallen if each is not new]))

    def write(self, name: str, state: dict[str, Any]) -> None:
        """Write a checkpoint, by the first process; a failure is raised in all of them."""
        ranks.first_alone(lambda: self.write_here(name, state))

    def write_here(self, name: str, state: dict[str, Any]) -> None:
        """Write a checkpoint, by this process; of last.pt the one before is kept."""
        if name == checkpoint.LAST:
            checkpoint.keep_previous(self.folder)
        checkpoint.save(self.folder / name, state)

    def rescue(self) -> bool:
        """Write last.pt by this process alone, while the others wait or are gone; whether there is one of this step.

        What the others have summed up for the next log is out of reach: it begins anew, and nothing else differs.
        """
        progress, alone = self.progress, ranks.size() > 1
        if progress.saved_step == progress.step:
            return True
        with suppress(NotWritten, RuntimeError, MemoryError):
            if self.finite():
                sums = torch.zeros_like(self.sums.values) if alone else self.sums.values
                self.write_here(checkpoint.LAST, self.state_dict(sums))
                progress.saved_step = progress.step
        return progress.saved_step == progress.step

    # --------------------------------------------------------------------------------- what ends a run for good

    def check_finite(self) -> None:
        """Raise `UserError` when a loss, a gradient or a weight is infinite or not a number."""
        if any(ranks.largest(not self.finite())):
            raise UserError(
                f"The loss is no longer finite, noticed at step {self.progress.step}: the run stops and "
                f"{self.last_good()}. Try a lower optimizer.lr (now {self.parts.base_rates[0]:g}), "
                "training.clip_norm=1, training.nonfinite=skip or device.precision=fp32 in a new run."
            )

    def finite(self) -> bool:
        """Whether every loss, gradient and weight so far is finite, in this process."""
        norms = torch.stack(torch._foreach_norm(self.parts.parameters))
        return self.sums.finite() and bool(norms.isfinite().all())

    def check_skipped(self) -> None:
        """Raise `UserError` when one step after another is skipped."""
        if self.progress.skipped_in_a_row >= MOST_SKIPPED:
            raise UserError(
                f"{MOST_SKIPPED} steps in a row had a loss or gradient that is not finite: the run stops at step "
                f"{self.progress.step - 1}, and {self.last_good()}. Try a lower optimizer.lr (now "
                f"{self.parts.base_rates[0]:g}) or device.precision=fp32 in a new run."
            )

    def last_good(self) -> str:
        """Where to go on from, in words."""
        return f"its last good checkpoint is {self.folder / checkpoint.LAST}, of step {self.progress.saved_step}"

"""The settings of a training: how long it is, what a step takes, and what happens every so many steps."""

import math
from dataclasses import dataclass

from diffusion.system import ranks
from diffusion.training.pacing import budget_seconds


@dataclass(frozen=True)
class Plan:
    """The config group `training`, a field for each of its settings.

    Args:
        images: length of the run, in images seen.
        epochs: or in passes over the training images; when given, it replaces `images`.
        steps: or in optimizer steps; when given, it replaces `images`.
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
        log_every: optimizer steps between two points of the curves; 0 means never.
        checkpoint_every: between two checkpoints; 0 means only at the end.
        preview_every: between two grids of images, with the held-out loss; 0 means only at the end.
        evaluate_every: between two times that the averaged weights are scored; 0 means only at the end.
        keep: how many of the best checkpoints are kept: best.pt, best_step1200.pt, …
        keep_by: the score by which they are the best, by its name in TensorBoard: score/recall, held_out/loss, …
        patience: end the run when so many measurements of that score have brought no better one; 0 is never.
        workers: processes that decode images, where they do not fit in memory.
        profile: steps to record with PyTorch's profiler; 0 is none. See `diffusion.training.profiling`.
        freeze: patterns of the names of parameters that stay as they are. See `diffusion.training.freezing`.

    Raises:
        ValueError: a setting is out of its range, or the length is given twice.
    """

    images: int = 1_000_000
    epochs: float | None = None
    steps: int | None = None
    budget: str | float | None = None
    batch_size: int = 128
    accumulate: int = 1
    clip_norm: float | None = 1.0
    nonfinite: str = "stop"
    warmup: float = 0.02
    decay: str = "cosine"
    log_every: int = 50
    checkpoint_every: int = 1000
    preview_every: int = 1000
    evaluate_every: int = 0
    keep: int = 1
    keep_by: str = "score/fid"
    patience: int | None = 0
    workers: int = 2
    profile: int = 0
    freeze: list[str] | None = None

    def __post_init__(self) -> None:
        batch_size, accumulate, several = self.batch_size, self.accumulate, ranks.size()
        if batch_size < 1 or accumulate < 1 or batch_size % (accumulate * several):
            times = f" times the {several} processes" if several > 1 else ""
            raise ValueError(f"accumulate={accumulate}{times} must be at least 1 and divide batch_size={batch_size}")
        if self.decay not in ("constant", "linear", "cosine"):
            raise ValueError(f"decay={self.decay} must be one of constant, linear, cosine")
        if self.nonfinite not in ("stop", "skip"):
            raise ValueError(f"nonfinite={self.nonfinite} must be stop or skip")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup={self.warmup} is a share of the run and must lie in [0, 1)")
        if self.clip_norm is not None and self.clip_norm < 0:
            raise ValueError(f"clip_norm={self.clip_norm} must be positive, or 0 for no clipping")
        for name in "log_every checkpoint_every preview_every evaluate_every workers profile".split():
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must be 0 or more")
        if self.keep < 1 or (self.patience or 0) < 0:
            raise ValueError(f"keep={self.keep} must be at least 1, and patience={self.patience} 0 or more")
        if self.workers > 256:
            raise ValueError(f"workers={self.workers} must be at most 256 processes")
        given = [f"{name}={value}" for name in ("steps", "epochs") if (value := getattr(self, name)) is not None]
        if self.budget is not None and given:
            raise ValueError(f"budget={self.budget} and {given[0]} both set the length: make one of them null")
        _ = self.seconds  # refused now rather than in use

    @property
    def seconds(self) -> float | None:
        """The budget; None for a length in images."""
        return None if self.budget is None else budget_seconds(str(self.budget))

    @property
    def part(self) -> slice:
        """Of each batch, what this process reads."""
        mine = ranks.share(self.batch_size)
        return slice(mine.start, mine.stop)

    def total_steps(self, size: int) -> int:
        """Length of the run in optimizer steps, for a data set of so many images; with a budget a first guess."""
        steps, epochs = self.steps, self.epochs
        if steps is not None and epochs is not None:
            raise ValueError(f"steps={steps} and epochs={epochs} both set the length: give one of them")
        if steps is None:
            steps = math.ceil((self.images if epochs is None else epochs * size) / self.batch_size)
        if steps < 1:
            raise ValueError(f"steps={steps}: the run must have at least one step (see training.images, epochs, steps)")
        return steps

    def rate_factor(self, step: int, total: int) -> float:
        """What the learning rate of step 0 … total − 1 is multiplied with: a linear rise, then a fall towards 0."""
        rise = self.warmup * total
        if step < rise:
            return (step + 1) / (math.ceil(rise) + 1)
        if self.decay == "constant":
            return 1.0
        done = (step - rise) / (total - rise)
        return 1 - done if self.decay == "linear" else 0.5 * (1 + math.cos(math.pi * done))

    def shows(self, step: int) -> bool:
        """Whether a preview or scores come after this step."""
        return due(self.preview_every, step) or due(self.evaluate_every, step)


def due(every: int, step: int) -> bool:
    """Whether something that happens every so many steps happens after this one; 0 is never."""
    return every > 0 and step % every == 0

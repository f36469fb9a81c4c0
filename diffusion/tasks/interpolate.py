"""Interpolation: what a model draws between two seeds or two classes, in even steps.

Between seeds the noise goes from one to the other, as cos(φ) z + sin(φ) z', which is standard normal on the whole way
(spherical interpolation of what is nearly orthogonal anyway; Song et al. 2021, https://arxiv.org/abs/2010.02502).
Between classes the noise stays and the estimate goes from one to the other, x̂_0 = (1 − w) x̂_0(a) + w x̂_0(b): as x̂_0 is
linear in the score, this is the model of p(x | a)^(1 − w) p(x | b)^w at every noise level (compare Liu
et al. 2022, https://arxiv.org/abs/2206.01714).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from diffusion.denoiser import Estimate, Estimator, Wrapped
from diffusion.drawing.names import captions
from diffusion.drawing.pictures import labelled_grid
from diffusion.sampler.base import Conditions, Noise
from diffusion.system.errors import UserError
from diffusion.tasks.base import Job, Result, Task


class BetweenClasses(Wrapped):
    """A denoiser of a mixture of two labels.

    Args:
        others: the second labels (B,).
        weights: of the second labels, (B,).
    """

    def __init__(self, denoiser: Estimator, others: Tensor, weights: Tensor) -> None:
        super().__init__(denoiser)
        self.others, self.weights = others, weights.view(-1, 1, 1, 1)

    def estimate(self, x_t: Tensor, t: float, labels: Tensor | None = None) -> Estimate:
        """The mixture of both estimates."""
        pair = self.denoiser.estimate(x_t, t, labels), self.denoiser.estimate(x_t, t, self.others)
        x_0, kept, share = (
            None if a is None or b is None else torch.lerp(a, b, self.weights.to(a)) for a, b in zip(*pair, strict=True)
        )
        assert x_0 is not None
        return Estimate(x_0, kept, share)


def between_noises(first: Noise, second: Noise, weights: Tensor) -> Callable[[], Tensor]:
    """Noise on the way from the first (weight 0) to the second (1), for images with weights (B,)."""
    angle = 0.5 * math.pi * weights.view(-1, 1, 1, 1)
    a, b = (part.to(first.device) for part in (angle.cos(), angle.sin()))
    return lambda: a * first() + b * second()


class Interpolate(Task):
    """Rows of images that go from one seed or class to another.

    Args:
        between: "seeds" or "classes".
        seeds: the two, of which the first half of the pair is the job's own seed if None.
        columns: images on the way, with both ends.
    """

    def __init__(self, between: str = "seeds", seeds: list[int] | None = None, columns: int = 9) -> None:
        if between not in ("seeds", "classes"):
            raise ValueError(f"between={between} must be 'seeds' or 'classes'")
        if seeds is not None and (len(seeds) != 2 or min(seeds) < 0):
            raise ValueError(f"seeds={seeds} must be two numbers, 0 or more")
        if seeds is not None and between == "classes":
            raise ValueError(f"seeds={seeds} has no effect with task.between=classes: choose one seed by seed=")
        if columns < 2:
            raise ValueError(f"columns={columns} must be at least 2, the two ends")
        self.between, self.seeds, self.columns = between, seeds, columns

    def run(self, job: Job) -> Result:
        """n rows; between seeds a row for each class in turn, between classes one for each image number."""
        if job.n < 1:
            raise UserError(f"n={job.n} must be at least 1.")
        weights = torch.linspace(0, 1, self.columns).repeat(job.n)  # row by row
        rows = torch.arange(job.n).repeat_interleave(self.columns)
        seeds = self.seeds if self.seeds is not None else [job.seed, job.seed + 1]
        others, labels, captions = self.chosen(job, rows)
        model = job.model

        def noise(numbers: range) -> Callable[[], Tensor]:
            part = slice(numbers.start, numbers.stop)
            first, second = (Noise(seed, rows[part].tolist(), model.shape, model.device.torch_device) for seed in seeds)
            return first if others is not None else between_noises(first, second, weights[part])

        def wrap(denoiser: Estimator, numbers: range) -> Estimator:
            assert others is not None
            part, device = slice(numbers.start, numbers.stop), model.device.torch_device
            return BetweenClasses(denoiser, others[part].to(device), weights[part].to(device))

        given = Conditions(noise=noise, wrap=None if others is None else wrap)
        images = job.draw(len(rows), labels, given)
        ends = [f"seed {seed}" for seed in seeds] if others is None else captions
        heads = [ends[0], *[f"{weight:.2g}" for weight in weights[1 : self.columns - 1].tolist()], ends[1]]
        names = captions if others is None else []
        return Result(images, labels, labelled_grid(images, self.columns, heads, rows=names))

    def chosen(self, job: Job, rows: Tensor) -> tuple[Tensor | None, Tensor | None, list[str]]:
        """The second labels (between classes), the first labels, and captions."""
        names = captions(job.model.class_names)
        if self.between == "seeds":
            labels = job.model.labels(job.n, job.classes)
            return None, None if labels is None else labels[rows], [] if labels is None else [names[k] for k in labels]
        if not job.model.guidance.conditional:
            raise UserError(
                "task.between=classes needs labels, and this model has guidance=none: use task.between=seeds."
            )
        if job.classes is None or len(job.classes) != 2:
            raise UserError("task.between=classes needs two classes: add classes=[A,B] to the command.")
        first, second = (torch.full_like(rows, number) for number in job.classes)
        return second, first, [names[number] for number in job.classes]

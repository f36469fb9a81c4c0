"""What a run shows of itself: sample grids with the same noise and labels throughout, held-out loss, and scores."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diffusion.data.images import Images, encode, pad_images
from diffusion.drawing.image_model import ImageModel
from diffusion.drawing.pictures import grid_layout, labelled_grid, save_picture, tile
from diffusion.evaluation.illustrations import illustrate
from diffusion.evaluation.ranking import BY_NAME, HELD_OUT_LOSS, badness
from diffusion.evaluation.reference import Reference
from diffusion.evaluation.report import METRICS, value_of, write_report
from diffusion.evaluation.scoring import Scorer
from diffusion.records.tracking import Tracker, kept
from diffusion.sampler import Sampler
from diffusion.system import ranks
from diffusion.system.randomness import HELD_OUT, stream
from diffusion.training.parts import Parts

COLUMNS = 16  # of a preview


@dataclass(eq=False, repr=False)
class Monitor:
    """Draws with the averaged weights, which it sees change as training goes on.

    Args:
        model: with the averaged weights.
        sampler: a fast one.
        parts: of the run; test images are held out.
        tracker, folder: of the run.
        n: images that are scored.
        seed: of all images drawn here, and of the held-out noise.
        batch_size: images drawn at once; None leaves it to the device.
        held_out: test images whose loss is measured with each preview.

    Attributes:
        scorer: gives scores, where there is one.
        judge: makes what guidance is chosen by, where there is no scorer.
    """

    model: ImageModel
    sampler: Sampler
    parts: Parts
    tracker: Tracker
    folder: Path
    n: int = 1000
    seed: int = 0
    batch_size: int | None = None
    held_out: int = 512

    def __post_init__(self) -> None:
        n, batch_size = self.n, self.batch_size
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} must be 0 or more")
        if n < 0 or n == 1 or (batch_size is not None and batch_size < 1):
            raise ValueError(f"n={n} must be 0 (no scores) or at least 2, and batch_size={batch_size} at least 1")
        if self.held_out < 0:
            raise ValueError(f"held_out={self.held_out} must be 0 or more")
        self.scorer: Scorer | None = None
        self.judge: Callable[[], Reference] | None = None
        self.held_out = min(self.held_out, len(self.parts.data.test))
        self.at_once = self.model.device.images_at_once(batch_size, self.model.shape[1:])
        self.scores: dict[str, Any] | None = None
        self.loss: float | None = None  # on held-out images, of the newest preview
        self.pictures: list[tuple[str, str]] = []

    @property
    def reference(self) -> Reference | None:
        """The real images that what is drawn here can be compared with."""
        if self.scorer is not None:
            return self.scorer.reference
        return None if self.judge is None else self.judge()

    def preview(self, step: int, number: int = 0) -> None:
        """A grid with one column per class, into TensorBoard and grid.png, and the held-out loss; the so-many-th."""
        n = 8 * min(len(self.model.class_names) or 8, COLUMNS)
        labels = self.model.labels(n, self.shown())
        images = self.model.draw(self.sampler, n, labels, self.seed, self.at_once)
        if not ranks.first():
            return
        columns, captions = grid_layout(labels, self.model.class_names, n)
        self.tracker.image("samples/ema", tile(images, columns), step)
        save_picture(self.folder / "grid.png", labelled_grid(images, columns, captions))

        if self.held_out and kept(number):
            self.loss = self.held_out_loss()
            self.tracker.scalars({HELD_OUT_LOSS: self.loss}, step)

    def shown(self) -> list[int]:
        """The classes of a preview: all, or of many some that lie evenly among them."""
        number = len(self.model.class_names)
        return sorted({place * number // COLUMNS for place in range(COLUMNS)} if number > COLUMNS else range(number))

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """Mean loss on test images, with their labels and with the same noise and times at every call."""
        n, generator, device = self.held_out, stream(self.seed, HELD_OUT), self.model.device
        images, labels = self.parts.data.test.select(torch.arange(n))
        x_0 = encode(pad_images(images, self.parts.data.padding))
        t = self.parts.timesteps((torch.arange(n) + torch.rand(n, generator=generator)) / n)
        noise = torch.randn(x_0.shape, generator=generator)
        labels = labels if self.model.guidance.conditional else None
        total = 0.0
        for part in torch.arange(n).split(device.at_most(self.at_once)):
            tensors = (None if value is None else value[part] for value in (x_0, t, noise, labels))
            x, times, eps, y = (None if value is None else value.to(device.torch_device) for value in tensors)
            with device.autocast():
                losses = self.parts.loss(self.model.denoiser, x, times, eps, y)  # type: ignore[arg-type]
            total += float((losses * self.parts.timesteps.weight(times)).sum())  # type: ignore[arg-type]
        return total / n

    def score(self, step: int) -> Images | None:
        """Draw images and score them, by all processes; the images, whose scores the first one keeps in `scores`.

        Everything here draws from streams of its own, so training goes on as if it had not been asked. None where there
        is no scorer.
        """
        if self.scorer is None or not self.n:
            return None
        labels = self.model.labels(self.n)
        drawn = self.model.draw(self.sampler, self.n, labels, self.seed, self.at_once, progress=True)
        images, how = Images(drawn, labels), f"{self.sampler.describe()}; {self.model.guidance.describe()}"
        source = f"averaged weights at step {step}; {how}; seed {self.seed}"
        scores = self.scorer.score(images, source)
        if ranks.first():
            self.scores = scores
        return images

    def report(self, images: Images | None, step: int) -> dict[str, float | None]:
        """Scores by TensorBoard tag; whole in metrics.json and the report. Of the first process; {} of no images."""
        scores = self.scores
        if self.scorer is None or images is None or scores is None:
            return {}
        folder, nearest = self.folder / "scores", self.scorer.nearest
        made = illustrate(folder, self.scorer, images, scores, nearest, self.tracker, step)
        self.pictures = [(f"scores/{name}", caption) for name, caption in made]
        write_report(self.folder, [scores], {"status": "training", "step": step}, self.pictures)
        return {f"score/{metric.key}": value_of(scores, metric.key) for metric in METRICS}

    def badness(self, name: str) -> float | None:
        """Of the newest scores the one of this name, as a number that is the smaller, the better it is."""
        return badness(name, self.scores) if self.scores is not None and name in BY_NAME else None

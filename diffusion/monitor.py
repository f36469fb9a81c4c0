"""What a run shows of itself: sample grids with the same noise and labels throughout, and scores."""

from pathlib import Path
from typing import Any

from diffusion.evaluation.features import ClassifierFeatures
from diffusion.evaluation.report import write_report
from diffusion.evaluation.scoring import score_images
from diffusion.image_model import ImageModel
from diffusion.pictures import grid_layout, labelled_grid, tile
from diffusion.sampler import Sampler
from diffusion.tracking import Tracker


class Monitor:
    """Draws with the averaged weights, which it sees change as training goes on.

    Args:
        model: with the averaged weights.
        sampler: a fast one.
        features: the scorer, or None for no scores.
        tracker, folder: of the run.
        n: images that are scored.
        seed: of all images drawn here.
        batch_size: images drawn at once.
    """

    def __init__(
        self,
        model: ImageModel,
        sampler: Sampler,
        features: ClassifierFeatures | None,
        tracker: Tracker,
        folder: Path,
        n: int = 1000,
        seed: int = 0,
        batch_size: int = 250,
    ) -> None:
        if n < 0 or n == 1 or batch_size < 1:
            raise ValueError(f"n={n} must be 0 (no scores) or at least 2, and batch_size={batch_size} at least 1")
        self.model, self.sampler, self.features = model, sampler, features
        self.tracker, self.folder, self.n, self.seed, self.batch_size = tracker, folder, n, seed, batch_size
        self.scores: dict[str, Any] | None = None

    def preview(self, step: int) -> None:
        """A grid with one column per class, into TensorBoard and grid.png."""
        n = 8 * min(len(self.model.class_names) or 8, 16)
        labels = self.model.labels(n)
        images = self.model.draw(self.sampler, n, labels, self.seed, self.batch_size)
        columns, captions = grid_layout(labels, self.model.class_names, n)
        self.tracker.image("samples/ema", tile(images, columns), step)
        labelled_grid(images, columns, captions).save(self.folder / "grid.png")

    def score(self, step: int) -> dict[str, float | None]:
        """Scores by TensorBoard tag; whole in metrics.json and report.md. {} where there is no scorer."""
        if self.features is None or not self.n:
            return {}
        labels = self.model.labels(self.n)
        images = self.model.draw(self.sampler, self.n, labels, self.seed, self.batch_size, progress=True)
        source = (
            f"averaged weights at step {step}; {self.sampler.describe()}; {self.model.guidance.describe()}; "
            f"seed {self.seed}"
        )
        self.scores = score_images(images, labels, self.features, source)
        grid = "grid.png" if (self.folder / "grid.png").exists() else None
        write_report(self.folder, self.scores, {"status": "training", "step": step}, grid)
        return {f"score/{name}": self.scores[name] for name in ("fid", "inception_score", "accuracy")}

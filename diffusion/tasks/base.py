"""A task: a trained model and some wishes in, images and a picture of them out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from diffusion.data.images import ImageData
from diffusion.drawing.image_model import ImageModel
from diffusion.drawing.names import captions as captions_of
from diffusion.drawing.pictures import LONGEST, class_grid, labelled_grid
from diffusion.evaluation.reference import even_order
from diffusion.evaluation.samples import load_samples
from diffusion.sampler.base import Conditions, Observer, Sampler
from diffusion.system.errors import UserError


@dataclass
class Result:
    """What a task made.

    Args:
        images: uint8 (n, C, H, W).
        labels: classes (n,) or None.
        picture: to be looked at.
        says: a sentence with what was measured, or nothing.
        numbers: what was measured, for programs.
    """

    images: Tensor
    labels: Tensor | None
    picture: Image.Image
    says: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass
class Job:
    """What a task works with.

    Args:
        model: the trained model, guided as it was asked for.
        sampler: how to draw.
        data: loads the data of the model, whose test images are the inputs where no others are given.
        n: number of images, or of inputs.
        classes: chosen by the user, or None.
        seed: image i depends on (seed, i).
        batch_size: images drawn at once.
        observe: sees the first batch, evaluation by evaluation.
    """

    model: ImageModel
    sampler: Sampler
    data: Callable[[], ImageData]
    n: int
    classes: list[int] | None
    seed: int
    batch_size: int
    observe: Observer | None = None

    def draw(self, n: int, labels: Tensor | None, given: Conditions | None = None) -> Tensor:
        """n images, uint8 (n, C, H, W)."""
        return self.model.draw(
            self.sampler, n, labels, self.seed, self.batch_size, self.observe, progress=True, given=given
        )

    def inputs(self, where: str | None) -> tuple[Tensor, Tensor | None, list[str]]:
        """Images to work on, uint8 (n, C, H, W), the labels to draw with, and captions.

        Args:
            where: an .npz or a folder with images of the model's size; None takes test images, of each class alike.
        """
        data = self.data()
        found = data.test if where is None else load_samples(where, data, "task.images")
        if self.n < 1:
            raise UserError(f"n={self.n} must be at least 1.")
        if self.n > len(found):
            raise UserError(
                f"n={self.n}: there are only {len(found)} images in {where or data.name}: use n={len(found)}."
            )
        order = torch.arange(len(found))
        if where is None and found.labels is not None:
            order = even_order(found.labels, len(found))[: self.n]
            order = order[torch.argsort(found.labels[order], stable=True)]
        images, labels = found.select(order[: self.n])
        names = self.model.class_names if data.class_names == self.model.class_names else data.class_names
        conditional = self.model.guidance.conditional
        if conditional and self.classes is not None:
            labels = self.model.labels(self.n, self.classes)
        shown = captions_of(names)
        captions = [] if labels is None else [shown[k] for k in labels.tolist()]
        return images, labels if conditional else None, captions


class Task:
    """Something to do with a trained model."""

    films = False  # True where a film of the denoising makes sense
    chooses = True  # False where the task has its own sampler, and no guidance

    def run(self, job: Job) -> Result:
        """Do it."""
        raise NotImplementedError


class Generate(Task):
    """New images, from noise."""

    films = True

    def run(self, job: Job) -> Result:
        """n images that go round the classes, in a labelled grid."""
        labels = job.model.labels(job.n, job.classes)
        images = job.draw(job.n, labels)
        return Result(images, labels, class_grid(images, labels, job.model.class_names))


def table_of(rows: Sequence[tuple[str, Tensor]], captions: Sequence[str]) -> Image.Image:
    """A picture of rows of images, each with a name to its left; of many images those for which there is room.

    Args:
        rows: (name, uint8 (n, C, H, W)), n alike.
        captions: for the columns, or none.
    """
    columns = min(len(rows[0][1]), max(1, LONGEST // (2 * rows[0][1].shape[3] + 2)))
    images = torch.cat([images[:columns] for _, images in rows])
    return labelled_grid(images, columns, captions[:columns], rows=[name for name, _ in rows])

"""Image to image (SDEdit, Meng et al. 2022, https://arxiv.org/abs/2108.01073): an image gets noise up to some time and
is drawn again from there. The later the time, the less of the image is left, and the more the label decides.
"""

import torch

from diffusion.sampler.base import Conditions
from diffusion.tasks.base import Job, Result, Task, table_of


class ImageToImage(Task):
    """Draws images again from under noise.

    Args:
        strengths: times in (0, 1] up to which noise is added, a row of the picture for each.
        images: an .npz or a folder of images; None is test images.
    """

    def __init__(self, strengths: list[float], images: str | None = None) -> None:
        if not strengths or not all(0 < strength <= 1 for strength in strengths):
            raise ValueError(
                f"strengths={strengths} must be times between 0 (the image) and 1 (pure noise), one or more"
            )
        self.strengths, self.images = strengths, images

    def run(self, job: Job) -> Result:
        """Every image at every strength; with `classes`, as those."""
        images, labels, captions = job.inputs(self.images)
        start = job.model.from_images(images)
        drawn = [job.draw(len(images), labels, Conditions(start, strength)) for strength in self.strengths]
        rows = [("image", images)]
        rows += [(f"t = {strength:g}", made) for strength, made in zip(self.strengths, drawn, strict=True)]
        labels = None if labels is None else labels.repeat(len(drawn))
        return Result(torch.cat(drawn), labels, table_of(rows, captions))

"""The FID of what a model draws at a scale of guidance, for benchmarks that need no other score."""

from torch import Tensor

from diffusion.config.build import build, build_data
from diffusion.data.images import Images
from diffusion.evaluation.features.classifier import ClassifierFeatures
from diffusion.evaluation.reference import reference_of
from diffusion.model import Model
from diffusion.sampler.base import Conditions
from diffusion.training import tuning

SEED = 1000  # of the noise that images are drawn from


class Judge:
    """FIDs against all training images, by the classifier that scores them.

    Args:
        model: conditional; it is drawn from by its own sampler.

    Attributes:
        data: what it learned from.
    """

    def __init__(self, model: Model) -> None:
        self.drawing, self.config = model.image_model, model.config
        self.data, self.sampler = build_data(self.config["data"]), build(self.config["sampler"], "sampler")
        self.reference = reference_of(ClassifierFeatures(self.data, self.drawing.device.torch_device))
        self.at_once = self.drawing.device.images_at_once(None, self.drawing.shape)

    def fid(self, images: Tensor, labels: Tensor) -> float:
        """The FID of uint8 images (n, C, H, W)."""
        return tuning.fid(self.reference, self.reference.moments, Images(images, labels))

    def drawn(self, scale: float, labels: Tensor, given: Conditions | None = None) -> float:
        """The FID of one image for each label, drawn at this scale; always from the same noise."""
        self.drawing.guidance = build({**self.config["guidance"], "scale": scale}, "guidance")
        images = self.drawing.draw(self.sampler, len(labels), labels, SEED, self.at_once, given=given)
        return self.fid(images, labels)

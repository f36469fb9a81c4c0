"""A denoiser with all that is needed to draw images that look like its data."""

from collections.abc import Sequence

import torch
from torch import Tensor

from diffusion.data.images import crop_images, decode, encode, pad_images
from diffusion.data.shapes import padded
from diffusion.denoiser import Denoiser, beyond
from diffusion.guidance import ClassifierFree, Guidance, Unconditional
from diffusion.sampler.base import Conditions, Observer, Sampler, draw_images
from diffusion.system import ranks
from diffusion.system.device import Device
from diffusion.system.errors import UserError


class ImageModel:
    """Draws uint8 images of the data's own size.

    Args:
        denoiser: with the weights to sample from, on the device.
        guidance: how labels act.
        device: where and in which precision.
        image: {"size": H or [H, W], "channels": C, "padding": pixels the network sees around it, "class_names": […]}.
    """

    def __init__(self, denoiser: Denoiser, guidance: Guidance, device: Device, image: dict) -> None:
        self.denoiser, self.guidance, self.device, self.image = denoiser, guidance, device, image
        self.class_names: list[str] = image["class_names"]
        self.evaluations = 0.0  # of networks, for each image of the last `draw`

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) that the network sees, with the padding."""
        return (self.image["channels"], *padded(self.image["size"], self.image["padding"]))

    def unguided(self) -> "ImageModel":
        """The same model without guidance; with labels, where it draws with them."""
        labelled = self.guidance.conditional and self.guidance.scale != 0
        guidance = ClassifierFree(dropout=0.0, scale=1.0) if labelled else Unconditional()
        return ImageModel(self.denoiser, guidance, self.device, self.image)

    def labels(self, n: int, classes: Sequence[int] | None = None) -> Tensor | None:
        """n labels that go round `classes` (all of them if None); None for an unconditional model."""
        if n < 1:
            raise UserError(f"n={n} must be at least 1.")
        if not self.guidance.conditional:
            return None
        chosen = torch.tensor(list(range(len(self.class_names))) if classes is None else list(classes))
        return chosen[torch.arange(n) % len(chosen)]

    def draw(
        self,
        sampler: Sampler,
        n: int,
        labels: Tensor | None,
        seed: int,
        batch_size: int,
        observe: Observer | None = None,
        progress: bool = False,
        given: Conditions | None = None,
    ) -> Tensor:
        """n images as uint8 (n, C, H, W) on the CPU, shared out over the processes; arguments as in `draw_images`.

        Raises:
            UserError: an argument is out of its range, or the sampler does not fit the model.
        """
        if seed < 0:
            raise UserError(f"seed={seed} must be 0 or more.")
        denoiser = self.guidance.guide(self.denoiser)
        networks = [module for module in denoiser.modules() if isinstance(module, Denoiser)]
        before, share = sum(module.evaluated for module in networks), ranks.share(n)
        try:
            with self.device.autocast():
                x = draw_images(
                    sampler,
                    denoiser,
                    self.shape,
                    labels,
                    n,
                    seed,
                    batch_size,
                    self.device.torch_device,
                    observe,
                    progress and ranks.first(),
                    given,
                    share,
                )
        except ValueError as error:
            raise UserError(f"{error}.") from error
        self.evaluations = (sum(module.evaluated for module in networks) - before) / len(share)
        return ranks.gather(self.to_images(x), n)

    def from_images(self, images: Tensor) -> Tensor:
        """uint8 (n, C, H, W) → network values with the padding, black and white where the network learned them."""
        return beyond(encode(pad_images(images, self.image["padding"])), self.denoiser.margin)

    def to_images(self, x: Tensor) -> Tensor:
        """Network values with the padding → uint8 (n, C, H, W)."""
        return crop_images(decode(x), self.image["padding"])

"""Inpainting: some pixels of an image are known, the others are painted so that they fit.

At every noise level the estimate x̂_0 gets the known pixels put in, so that the path of the whole image leads to one
that has them (replacement, Song et al. 2021, https://arxiv.org/abs/2011.13456, written for x̂_0). What the other pixels
have become by then did not know of them, and is mended by going back and forth (RePaint, Lugmayr et al. 2022,
https://arxiv.org/abs/2201.09865): before a step from t to s, one with fresh noise is taken and undone by as much noise,

    x_s = DDPM's step from x_t,     x_t = α_t/α_s · x_s + √(σ_t² − α_t² σ_s²/α_s²) · z,

which keeps the distribution of x_t where it is right and pulls it towards that with the known pixels where it is not.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from diffusion.data.decoding import BLACK, decode_file, reason
from diffusion.data.images import pad_images
from diffusion.data.shapes import pair
from diffusion.denoiser import Estimate, Estimator, Wrapped
from diffusion.sampler import DDIM
from diffusion.sampler.base import Conditions
from diffusion.schedule import Level
from diffusion.system.errors import UserError
from diffusion.system.randomness import SAMPLING, stream
from diffusion.system.untrusted import open_image
from diffusion.tasks.base import Job, Result, Task, table_of

HALVES: dict[str, Callable[[int, int], tuple[slice, slice]]] = {  # what is painted anew of height × width pixels
    "top": lambda height, width: (slice(0, height // 2), slice(None)),
    "bottom": lambda height, width: (slice(height // 2, None), slice(None)),
    "left": lambda height, width: (slice(None), slice(0, width // 2)),
    "right": lambda height, width: (slice(None), slice(width // 2, None)),
    "centre": lambda height, width: (slice(height // 4, height - height // 4), slice(width // 4, width - width // 4)),
}


class Inpainting(Wrapped):
    """A denoiser that knows some of the pixels.

    Args:
        known: clean images (B, C, H, W).
        unknown: 1 where pixels are to be painted and 0 where they are known, broadcast to `known`.
        noise: noise() draws a standard normal of the shape of `known`.
        repeats: how often each step is tried and undone before it counts.
    """

    def __init__(
        self, denoiser: Estimator, known: Tensor, unknown: Tensor, noise: Callable[[], Tensor], repeats: int = 0
    ) -> None:
        super().__init__(denoiser)
        self.known, self.unknown, self.noise, self.repeats = known, unknown, noise, repeats
        self.ancestral = DDIM(eta=1.0)

    def before_step(self, denoise: Callable[[Tensor, Level], Estimate], x_t: Tensor, t: Level, s: Level) -> Tensor:
        """x_t after going to s and back, `repeats` times; the last step, which adds no noise, is left as it is."""
        for _ in range(self.repeats if s.sigma > 0 else 0):
            x_s = self.ancestral.advance(denoise(x_t, t), x_t, t, s, self.noise)
            forward = max(t.sigma**2 - (t.alpha / s.alpha * s.sigma) ** 2, 0.0)
            x_t = t.alpha / s.alpha * x_s + math.sqrt(forward) * self.noise()
        return x_t

    def estimate(self, x_t: Tensor, t: float, labels: Tensor | None = None) -> Estimate:
        """x̂_0 with the known pixels."""
        x_0, kept, share = self.denoiser.estimate(x_t, t, labels)
        return Estimate(self.fill(x_0), None if kept is None else self.fill(kept), share)

    def fill(self, x_0: Tensor) -> Tensor:
        """The known pixels where they are known."""
        return torch.where(self.unknown.bool(), x_0, self.known)


class Inpaint(Task):
    """Paints part of each image anew, in several ways.

    Args:
        mask: what is painted: top, bottom, left, right or centre, or an image file, white where it is painted and
            black or transparent where it is not.
        images: an .npz or a folder of images; None is test images.
        variations: how many ways for each image.
        repeats: as in `Inpainting`; every one costs as much as the sampling.
    """

    def __init__(self, mask: str = "bottom", images: str | None = None, variations: int = 4, repeats: int = 2) -> None:
        if variations < 1:
            raise ValueError(f"variations={variations} must be at least 1")
        if repeats < 0:
            raise ValueError(f"repeats={repeats} must be 0 or more")
        self.mask, self.images, self.variations, self.repeats = mask, images, variations, repeats

    def run(self, job: Job) -> Result:
        """`variations` completions of each image, under the image and what is known of it."""
        images, labels, captions = job.inputs(self.images)
        model, device = job.model, job.model.device.torch_device
        unknown = read_mask(self.mask, model.image["size"])
        whole = pad_images(unknown, model.image["padding"]).to(device)
        known = model.from_images(images).to(device)

        def wrap(seed: int, denoiser: Estimator, rows: range) -> Estimator:
            streams = [stream(seed, SAMPLING, i, 1) for i in rows]

            def noise() -> Tensor:
                return torch.stack([torch.randn(model.shape, generator=own) for own in streams]).to(device)

            return Inpainting(denoiser, known[rows.start : rows.stop], whole, noise, self.repeats)

        drawn = []
        for seed in range(job.seed, job.seed + self.variations):
            given = Conditions(wrap=partial(wrap, seed), passes=1 + self.repeats)
            drawn.append(replace(job, seed=seed).draw(len(images), labels, given))
        hidden = torch.where(unknown.bool(), 128, images).to(torch.uint8)
        rows = [("image", images), ("known", hidden), *((f"{k + 1}", made) for k, made in enumerate(drawn))]
        labels = None if labels is None else labels.repeat(self.variations)
        return Result(torch.cat(drawn), labels, table_of(rows, captions))


def read_mask(mask: str, size: int | Sequence[int]) -> Tensor:
    """1 where pixels are to be painted, float (1, 1, H, W); `size` is (H, W), or the side of a square."""
    height, width = pair(size)
    unknown = torch.zeros(1, 1, height, width)
    if mask in HALVES:
        unknown[(..., *HALVES[mask](height, width))] = 1
        return unknown
    if not os.path.isfile(mask):
        raise UserError(f"task.mask={mask} is no image file; give one, or choose from {', '.join(HALVES)}.")
    try:
        with open_image(mask) as image:
            if image.size != (width, height):  # known before a pixel is unpacked
                raise UserError(
                    f"task.mask={mask} has {image.height}×{image.width} pixels; it must have {height}×{width}."
                )
        pixels = decode_file(Path(mask), None, 1, BLACK).pixels
    except UserError:
        raise
    except Exception as error:  # Pillow raises many kinds for a damaged file
        raise UserError(f"task.mask={mask} cannot be read as an image ({reason(error)}).") from error
    unknown[0, 0] = torch.from_numpy(pixels[..., 0] > 127).float()
    return unknown

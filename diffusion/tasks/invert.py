"""DDIM inversion: the noise that an image comes from, and the image back from it.

Without fresh noise, DDIM's steps follow a path that can be walked from both ends (Song et al. 2021,
https://arxiv.org/abs/2010.02502). Upwards, a step from s to t > s is

    x_t = α_t x̂_0 + σ_t ε̂,     ε̂ = (x_s − α_s x̂_0)/σ_s,

with the estimate at s where the way down has the one at t, so that the two ways part by an error that falls with the
number of steps. The way up begins at the lowest noise level of the grid, as if the image had that much noise.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from diffusion.denoiser import Estimator
from diffusion.sampler import DDIM
from diffusion.sampler.base import Conditions, Denoise
from diffusion.schedule import levels_at
from diffusion.tasks.base import Job, Result, Task, table_of


@torch.no_grad()
def invert(denoiser: Estimator, x_0: Tensor, labels: Tensor | None, times: Sequence[float]) -> Tensor:
    """The noise (B, C, H, W), about standard normal, from which DDIM's steps lead to the images x_0.

    Args:
        x_0: clean images (B, C, H, W).
        labels: classes (B,) or None.
        times: falling, the last 0, as `Sampler.times` gives them.
    """
    denoise = Denoise(denoiser, labels, None, None)
    levels = levels_at(denoise.schedule, times[-2::-1])  # upwards, without 0
    x_s = x_0
    for s, t in pairwise(levels):
        estimate = denoise(x_s, s).x_0
        x_s = t.alpha * estimate + t.sigma * (x_s - s.alpha * estimate) / s.sigma
    return x_s / levels[-1].sigma


def given_noise(noise: Tensor, rows: range) -> Callable[[], Tensor]:
    """The noise (n, C, H, W) of some images, for each time it is asked for."""
    return lambda: noise[rows.start : rows.stop]


class Invert(Task):
    """Images to noise and back, without guidance, with several numbers of steps.

    Args:
        steps: of DDIM on either way, a row of the picture for each.
        images: an .npz or a folder of images; None is test images.
        grid: of the times, as for every sampler.
    """

    chooses = False

    def __init__(self, steps: list[int], images: str | None = None, grid: str = "uniform") -> None:
        if not steps or min(steps) < 2:
            raise ValueError(f"steps={steps} must be numbers of at least 2")
        self.steps, self.images = steps, images
        self.samplers = [DDIM(number, clip=False, grid=grid) for number in steps]

    def run(self, job: Job) -> Result:
        """The images, their noise, and what comes back, with the error of the round trip."""
        model, device = job.model.unguided(), job.model.device.torch_device
        job = replace(job, model=model)
        images, labels, captions = job.inputs(self.images)
        x_0 = model.from_images(images)
        denoiser, rows = model.guidance.guide(model.denoiser), [("image", images)]
        numbers: dict[str, list] = {"steps": self.steps, "error": [], "noise_mean": [], "noise_std": []}
        for sampler in self.samplers:
            times, found = sampler.times(model.denoiser.schedule), []
            for part in torch.arange(len(images)).split(model.device.at_most(job.batch_size)):
                own = None if labels is None else labels[part].to(device)
                with model.device.autocast():
                    found.append(invert(denoiser, x_0[part].to(device), own, times).float())
            noise = torch.cat(found)
            given = Conditions(noise=partial(given_noise, noise))
            back = replace(job, sampler=sampler).draw(len(images), labels, given)
            numbers["error"].append(float((back.float() - images.float()).square().mean().sqrt()))
            numbers["noise_mean"].append(float(noise.mean()))
            numbers["noise_std"].append(float(noise.std()))
            rows.append((f"{sampler.steps} steps", back))
        rows.insert(1, ("noise", model.to_images(noise.cpu() / 2)))
        says = "Round trip, root mean square error in grey levels of 255: " + ", ".join(
            f"{error:.2f} with {number} steps" for error, number in zip(numbers["error"], self.steps, strict=True)
        )
        mean, std = numbers["noise_mean"][-1], numbers["noise_std"][-1]
        says += f". The noise has mean {mean:.2f} and standard deviation {std:.2f} (0 and 1 where it is drawn)."
        return Result(back, labels, table_of(rows, captions), says, numbers)

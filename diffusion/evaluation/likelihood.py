"""How many bits a model needs for an image it has not seen: the variational bound on −log₂ p(x_0) per dimension.

The bound of `variational.py` is a sum over the T steps of a process, each one evaluation of the network, so it is
estimated without bias from a few: the last step, which decides on the grey levels, always, and of the other T − 1 one
at random from each of as many strata of neighbouring steps as there are evaluations left, counted with its stratum's
size (stratified sampling). The strata grow with t, since the bits of a step fall with it. Where there are as many
evaluations as steps, this is the whole sum.

Beside it stand two codes without a network, those of `codes.py`.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffusion.data.images import ImageData, ImageFiles, encode, pad_images
from diffusion.data.shapes import padded
from diffusion.denoiser import Denoiser, beyond, per_image
from diffusion.evaluation.codes import READ, histogram_bits, png_bits
from diffusion.evaluation.reference import even_order
from diffusion.schedule import Schedule
from diffusion.system.device import exact_float32
from diffusion.system.errors import UserError
from diffusion.system.progress import progress_bar
from diffusion.system.randomness import LIKELIHOOD, stream
from diffusion.variational import LEAST_NOISE, has_step, prior_bits, step_bits

FIXED_SHARE = 1.0  # where no variance is learned: β (0 is β̃), the right one for steps finer than the data's details


class Bound(NamedTuple):
    """The bound of some images in bits per dimension, float64 on the CPU.

    Args:
        bits: of each image (n,), the sum of the next three.
        prior: what is left of the image at t = 1 (n,).
        steps: all steps but the last (n,).
        decoder: the last step, from the least noise to the grey levels (n,).
        times: that of the last step, and the middle of each stratum of the others (k,).
        per_step: bits of the last step, and of one step of each stratum, means over the images (k,).
        evaluations: of the network for each image.
    """

    bits: Tensor
    prior: Tensor
    steps: Tensor
    decoder: Tensor
    times: Tensor
    per_step: Tensor
    evaluations: int


def process_times(schedule: Schedule, steps: int) -> Tensor:
    """The times 0, t_1, …, 1 of the process, float64: k/steps, but for those with less than the least noise."""
    t = torch.arange(steps + 1, dtype=torch.float64) / steps
    return t[(t == 0) | has_step(schedule, t)]


def stratify(steps: int, count: int) -> list[Tensor]:
    """Steps 1 … steps − 1 as `count` strata of neighbours, as even in the logarithm as whole steps allow.

    The bits of a step fall about as a power of its time: where they are many, every step is a stratum of its own.
    """
    edges = [1]
    for left in range(count, 0, -1):
        even = round(edges[-1] * (steps / edges[-1]) ** (1 / left))
        edges.append(min(max(edges[-1] + 1, even), steps - left + 1))
    return [torch.arange(low, high) for low, high in pairwise(edges)]


@torch.no_grad()
def likelihood_bound(
    denoiser: Denoiser,
    images: Tensor,
    labels: Tensor | None,
    *,
    steps: int | None = None,
    evaluations: int | None = 100,
    seed: int = 0,
    batch_size: int = 250,
    device: torch.device | str = "cpu",
    padding: int | Sequence[int] = 0,
    share: float = FIXED_SHARE,
    progress: bool = False,
) -> Bound:
    """The variational bound, estimated; image i depends on (seed, i) and not on the batch size.

    With padding it is the bound of the padded image, which is one of the image alone, too: p(image) is at least
    p(image, black border). It is divided by the image's own dimensions.

    Args:
        denoiser: on the device; only `schedule` and `estimate` are used, and x̂_0 is clamped to ±(1 + margin).
        images: uint8 (n, C, H, W) without padding.
        labels: classes (n,) or None.
        steps: T, at least 2; None is that of the schedule.
        evaluations: of the network for each image, at least 2; None is one for each step.
        padding: black pixels that the network sees on every side, or [top, bottom, left, right].
        share: log variance of p is (1 − share) · log β̃ + share · log β where the denoiser has not learned it.
        progress: show a bar.
    """
    schedule, device, n = denoiser.schedule, torch.device(device), len(images)
    times = process_times(schedule, steps or schedule.steps)
    whole = len(times) - 1  # step k leads from times[k + 1] to times[k]; step 0 is the last
    count = whole - 1 if evaluations is None else min(evaluations, whole) - 1
    strata = stratify(whole, count)
    first = torch.tensor([int(part[0]) for part in strata], dtype=torch.long)
    size = torch.tensor([len(part) for part in strata], dtype=torch.long)
    exact = torch.float32 if device.type == "mps" else torch.float64
    grid, found, prior, end = times.to(device, exact), [], [], 1 + denoiser.margin
    with exact_float32(), progress_bar(n * (count + 1), "likelihood", "evaluations", disable=not progress) as bar:
        for part in torch.arange(n).split(batch_size):
            pixels = encode(pad_images(images[part], padding))  # (B, C, H, W) with the padding
            x_0 = beyond(pixels, denoiser.margin).to(device, exact)
            classes = None if labels is None else labels[part].to(device)
            prior.append(prior_bits(schedule, x_0).cpu())
            streams = [stream(seed, LIKELIHOOD, i) for i in part.tolist()]
            u = torch.stack([torch.rand(count, generator=generator, dtype=torch.float64) for generator in streams])
            drawn = first + torch.minimum((u * size).long(), size - 1)  # (B, count)
            drawn = torch.cat([torch.zeros(len(part), 1, dtype=torch.long), drawn], dim=1)
            terms = []
            for k in drawn.to(device).unbind(dim=1):
                t, s = grid[k + 1], grid[k]
                alpha, sigma = (per_image(value, x_0) for value in schedule(t))
                noise = torch.stack([torch.randn(x_0.shape[1:], generator=generator) for generator in streams])
                x_t = alpha * x_0 + sigma * noise.to(device, exact)
                estimate = denoiser.estimate(x_t.float(), t.float(), classes)
                learned = share if estimate.share is None else estimate.share.to(exact)
                x_hat = estimate.x_0.clamp(-end, end).to(exact)
                terms.append(step_bits(schedule, x_0, x_t, t, s, x_hat, learned).cpu())
                bar.update(len(part))
            found.append(torch.stack(terms, dim=1))
    shape = images.shape[-2:]
    scale = math.prod(padded(shape, padding)) / math.prod(shape)
    bits, before = scale * torch.cat(found).double(), scale * torch.cat(prior).double()
    decoder, sampled = bits[:, 0], bits[:, 1:]
    summed = (sampled * size).sum(dim=1)
    middles = torch.stack([times[1], *(times[part + 1].mean() for part in strata)])
    return Bound(before + summed + decoder, before, summed, decoder, middles, bits.mean(dim=0), count + 1)


# -------------------------------------------------------------------------------------------- for reports


def check_settings(n: int, steps: int | None, evaluations: int | None, data: ImageData) -> None:
    """`UserError` for settings out of range; arguments as in `measure`."""
    if not 0 <= n <= len(data.test):
        raise UserError(
            f"likelihood={n} must be a number of test images: 0 (none) to {len(data.test)}, all of data={data.name}."
        )
    if n == 0 and steps is not None:
        raise UserError(f"likelihood_steps={steps} has no effect without likelihood=, the number of test images.")
    if steps is not None and steps < 2:
        raise UserError(f"likelihood_steps={steps} must be at least 2, or null for those of the schedule.")
    if evaluations is not None and evaluations < 2:
        raise UserError(f"likelihood_evaluations={evaluations} must be at least 2, or null for one at every step.")


def measure(
    denoiser: Denoiser,
    data: ImageData,
    n: int,
    *,
    conditional: bool,
    seed: int,
    padding: int | Sequence[int],
    **settings: Any,
) -> dict[str, Any]:
    """The likelihood of n test images, every class in its proportion, with what it was measured by.

    Args:
        conditional: whether the denoiser is given the images' labels.
        seed, padding, settings: as in `likelihood_bound`.

    Returns:
        "bits_per_dim" and its "standard_error" over images, its "parts", what simple codes need under "reference",
        bits of a step against t under "curve", and the "protocol".
    """
    images, labels = data.test.select(even_order(data.test.labels, len(data.test))[:n])
    given = labels if conditional else None
    bound = likelihood_bound(denoiser, images, given, seed=seed, padding=padding, progress=True, **settings)
    steps = settings.get("steps") or denoiser.schedule.steps
    kept = len(process_times(denoiser.schedule, steps)) - 1
    read = min(READ, len(data.train)) if isinstance(data.train, ImageFiles) else len(data.train)
    return {
        **_mean(bound.bits),
        "n": n,
        "parts": {name: float(getattr(bound, name).mean()) for name in ("prior", "steps", "decoder")},
        "reference": {"histogram": _mean(histogram_bits(data.train, images)), "png": _mean(png_bits(images))},
        "curve": {"t": bound.times.tolist(), "bits": bound.per_step.tolist()},
        "protocol": {
            "images": f"{n} of the {len(data.test)} test images of {data.name}, {data.fingerprint('test')}",
            "labels": "given, without guidance" if conditional else "not given",
            "steps": f"{steps}" + ("" if kept == steps else f", of which {kept} have σ/α ≥ {LEAST_NOISE}"),
            "evaluations": (
                f"{bound.evaluations} for each image: "
                + ("every step" if bound.evaluations == kept else "the last step, and one at random of each stratum")
            ),
            "variance": "learned" if denoiser.learns_variance else "β, that of the forward step",
            "discretised": "256 grey levels, bins of 2/255, outermost open-ended; no dequantisation noise",
            "estimate": f"clamped to ±{1 + denoiser.margin:g}; network in float32",
            "dimensions": f"{images[0].numel()}, those of an image"
            + (", which also bears the bits of the padding that the network sees" if padding else ""),
            "histogram": f"of the grey levels of {read} training images, one added to each count",
            "PNG": "the compressed data, without the headers of a file",
            "seed": seed,
        },
    }


def _mean(bits: Tensor) -> dict[str, float | None]:
    error = float(bits.std() / math.sqrt(len(bits))) if len(bits) > 1 else None
    return {"bits_per_dim": float(bits.mean()), "standard_error": error}

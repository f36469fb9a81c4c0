"""From noise to images: one loop over falling times; a sampler writes only the step from t to s < t.

DDPM's ancestral sampling and DDIM (Song et al. 2021, https://arxiv.org/abs/2010.02502, eq. 12) are one formula. With
the estimate x̂_0 and the noise ε̂ = (x_t − α_t x̂_0)/σ_t that goes with it,

    x_s = α_s x̂_0 + √(σ_s² − η² β̃) ε̂ + η √β̃ z,     β̃ = σ_s²/σ_t² · (σ_t² − α_t²/α_s² · σ_s²),

where β̃ is the variance of the posterior q(x_s | x_t, x_0): η = 0 is deterministic, η = 1 is DDPM.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffusion.progress import progress_bar
from diffusion.randomness import SAMPLING, stream

Observer = Callable[[Tensor, Tensor], None]


class Noise:
    """The random numbers of some images: image i draws from its own stream, so neither the batch it is made in nor
    the device changes them (they are drawn on the CPU).

    Args:
        seed: of the whole sample.
        indices: numbers of the images in the sample.
        shape: (C, H, W).
    """

    def __init__(self, seed: int, indices: Sequence[int], shape: Sequence[int], device: torch.device) -> None:
        self.streams = [stream(seed, SAMPLING, index) for index in indices]
        self.shape, self.device = tuple(shape), device

    def __call__(self) -> Tensor:
        """The next standard normal (B, C, H, W)."""
        drawn = torch.stack([torch.randn(self.shape, generator=generator) for generator in self.streams])
        return drawn.to(self.device, non_blocking=True)


class Level(NamedTuple):
    """A time with its α and σ, as plain numbers: no step waits for the device."""

    t: float
    alpha: float
    sigma: float


Denoise = Callable[[Tensor, Level], Tensor]


class Sampler:
    """The loop. A subclass writes `step`.

    Args:
        steps: number of network evaluations (of batched pairs, under guidance), at least 1.
        clip: clamp x̂_0 to [−1, 1] in every step, where the data lies.
    """

    def __init__(self, steps: int, clip: bool = True) -> None:
        if steps < 1:
            raise ValueError(f"steps={steps} must be at least 1")
        self.steps, self.clip = steps, clip

    def times(self) -> list[float]:
        """The time grid 1 = t_0 > t_1 > … > t_steps = 0, evenly spaced."""
        return [1 - k / self.steps for k in range(self.steps)] + [0.0]

    def describe(self) -> str:
        """For reports."""
        return f"{type(self).__name__}, {self.steps} steps{'' if self.clip else ', not clipped'}"

    @torch.no_grad()
    def sample(
        self, denoiser: nn.Module, noise: Noise, labels: Tensor | None = None, observe: Observer | None = None
    ) -> Tensor:
        """Draw images.

        Args:
            denoiser: x_t, t, labels → x̂_0, with an attribute `schedule`.
            noise: gives the initial noise and that of every step.
            labels: classes (B,) or None.
            observe: called as observe(x_t, x̂_0) after each network evaluation.

        Returns:
            images (B, C, H, W), about [−1, 1].
        """

        def denoise(x_t: Tensor, at: Level) -> Tensor:
            x_0 = denoiser(x_t, torch.full((len(x_t),), at.t, device=x_t.device), labels)
            x_0 = x_0.clamp(-1, 1) if self.clip else x_0
            if observe is not None:
                observe(x_t, x_0)
            return x_0

        times = torch.tensor(self.times(), dtype=torch.float64)
        alphas, sigmas = denoiser.schedule(times)  # type: ignore[operator]
        levels = [Level(*row) for row in torch.stack([times, alphas, sigmas], dim=1).tolist()]
        x_t = levels[0].sigma * noise()
        for t, s in pairwise(levels):
            x_t = self.step(denoise, x_t, t, s, noise)
        return x_t

    def step(self, denoise: Denoise, x_t: Tensor, t: Level, s: Level, noise: Noise) -> Tensor:
        """x_s from x_t. At s = 0 it must be the clean image, without fresh noise.

        Args:
            denoise: denoise(x_t, t) → x̂_0, clamped; the network evaluation.
            x_t: (B, C, H, W) at level t.
            t, s: the levels before and after, s.t < t.t.
            noise: noise() draws a standard normal of the shape of x_t.
        """
        raise NotImplementedError


class DDIM(Sampler):
    """DDIM with any η; η = 1 is DDPM's ancestral sampling (Ho et al. 2020, https://arxiv.org/abs/2006.11239, eq. 7).

    Args:
        steps, clip: as for every sampler.
        eta: share of the posterior's standard deviation that is drawn afresh: 0 is deterministic, 1 is DDPM.
        variance: what is drawn at η = 1: "posterior" β̃, or "forward", DDPM's other choice, the variance β of the
            forward step; η scales it alike.
    """

    def __init__(self, steps: int = 50, eta: float = 0.0, variance: str = "posterior", clip: bool = True) -> None:
        super().__init__(steps, clip)
        if not 0 <= eta <= 1:
            raise ValueError(f"eta={eta} must lie between 0 (deterministic) and 1 (DDPM)")
        if variance not in ("posterior", "forward"):
            raise ValueError(f"variance={variance} must be 'posterior' or 'forward'")
        self.eta, self.variance = eta, variance

    def describe(self) -> str:
        drawn = ", forward variance" if self.variance == "forward" and self.eta else ""
        return f"{super().describe()}, eta {self.eta:g}{drawn}"

    def step(self, denoise: Denoise, x_t: Tensor, t: Level, s: Level, noise: Noise) -> Tensor:
        x_0 = denoise(x_t, t)
        eps = (x_t - t.alpha * x_0) / t.sigma
        forward = max(t.sigma**2 - (t.alpha / s.alpha * s.sigma) ** 2, 0.0)
        posterior = forward * (s.sigma / t.sigma) ** 2
        x_s = s.alpha * x_0 + math.sqrt(max(s.sigma**2 - self.eta**2 * posterior, 0.0)) * eps
        if self.eta == 0 or s.sigma == 0:
            return x_s
        drawn = posterior if self.variance == "posterior" else forward
        return x_s + self.eta * math.sqrt(drawn) * noise()


def draw_images(
    sampler: Sampler,
    denoiser: nn.Module,
    shape: Sequence[int],
    labels: Tensor | None,
    n: int,
    seed: int,
    batch_size: int,
    device: torch.device,
    observe: Observer | None = None,
    progress: bool = False,
) -> Tensor:
    """n images, batch by batch; image i depends on (seed, i) and not on the batch size.

    Args:
        shape: (C, H, W) of one image.
        labels: classes (n,) or None.
        observe: sees the first batch only.
        progress: show a bar over all network evaluations.

    Returns:
        float32 (n, C, H, W) on the CPU.
    """
    if n < 1 or batch_size < 1:
        raise ValueError(f"n={n} and batch_size={batch_size} must be at least 1")
    images = []
    with progress_bar(n * sampler.steps, "sampling", "evaluations", disable=not progress) as bar:
        for first in range(0, n, batch_size):
            indices = range(first, min(first + batch_size, n))
            batch_labels = None if labels is None else labels[first : indices.stop].to(device)

            def watch(x_t: Tensor, x_0: Tensor, first: int = first) -> None:
                bar.update(len(x_0))
                if observe is not None and first == 0:
                    observe(x_t, x_0)

            noise = Noise(seed, indices, shape, device)
            images.append(sampler.sample(denoiser, noise, batch_labels, watch).float().cpu())
    return torch.cat(images)

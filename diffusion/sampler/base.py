"""From noise to images: one loop over falling times; a sampler writes only the step from t to s < t.

With the estimate x̂_0 goes the noise ε̂ = (x_t − α_t x̂_0)/σ_t, and every deterministic step follows the same path, the
probability-flow ODE (Song et al. 2021, https://arxiv.org/abs/2011.13456): samplers differ in how well they follow it
in few steps, and in whether they add fresh noise on the way. None needs to know what the network predicts.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion.denoiser import Estimate, Estimator
from diffusion.sampler.grid import GRIDS
from diffusion.schedule import Level, Schedule, levels_at
from diffusion.system.progress import progress_bar
from diffusion.system.randomness import SAMPLING, stream

log = logging.getLogger("diffusion")
Observer = Callable[[Tensor, Tensor], None]
Draw = Callable[[], Tensor]  # the next standard normal noise (B, C, H, W)
CLIPPING = {True: "", False: ", not clipped", None: ", not clipped but where noise is predicted"}


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


class Denoise:
    """The network as a step sees it: denoise(x_t, level) → `Estimate`, with labels and clamping taken care of.

    Args:
        denoiser: x_t, t, labels → `Estimate`.
        labels: classes (B,) or None.
        bound: clamp x̂_0 to ±bound; None does not.
        observe: called as observe(x_t, x̂_0) after each evaluation.
    """

    def __init__(
        self, denoiser: Estimator, labels: Tensor | None, bound: float | None, observe: Observer | None
    ) -> None:
        self.denoiser, self.labels, self.bound, self.observe = denoiser, labels, bound, observe
        self.schedule = denoiser.schedule

    def __call__(self, x_t: Tensor, at: Level) -> Estimate:
        found = self.denoiser.estimate(x_t, at.t, self.labels)
        if self.bound is not None:
            kept = None if found.kept is None else found.kept.clamp(-self.bound, self.bound)
            found = Estimate(found.x_0.clamp(-self.bound, self.bound), kept, found.share)
        if self.observe is not None:
            self.observe(x_t, found.x_0)
        return found


@dataclass(eq=False)
class Sampler:
    """The loop. A subclass writes `step`, and may add settings to these.

    Args:
        steps: steps of the time grid, at least 1; each is one network evaluation (of batched pairs, under guidance)
            unless the sampler says otherwise.
        clip: clamp x̂_0 in every evaluation to where the data lies, [−1, 1] and the margin of the loss. None does so
            only for a network that predicts noise, whose x̂_0 = (x_t − σ_t ε̂)/α_t blows up every error of ε̂ where
            hardly any image is left.
        grid: where the times lie: "uniform" or "quadratic" in t, "karras" or "log_snr" in the noise level.
    """

    carries_noise = False  # True where a step carries on the noise ε̂, which CFG++ replaces

    steps: int
    _: KW_ONLY
    clip: bool = True
    grid: str = "uniform"

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 100_000:
            raise ValueError(f"steps={self.steps} must be from 1 to 100,000")
        if self.grid not in GRIDS:
            raise ValueError(f"grid={self.grid} must be one of {', '.join(GRIDS)}")

    @property
    def evaluations(self) -> int:
        """How often the denoiser is asked for one batch."""
        return self.steps

    def bound(self, denoiser: Estimator) -> float | None:
        """Where x̂_0 is clamped, to ±bound; None where it is not."""
        return 1 + denoiser.margin if (denoiser.needs_signal if self.clip is None else self.clip) else None

    def times(self, schedule: Schedule) -> list[float]:
        """The time grid 1 ≥ t_0 > t_1 > … > t_steps = 0."""
        return GRIDS[self.grid](schedule, self.steps)

    def describe(self) -> str:
        """For reports."""
        grid = "" if self.grid == "uniform" else f", {self.grid} grid"
        return f"{type(self).__name__}, {self.steps} steps{grid}{CLIPPING[self.clip]}"

    def check(self, denoiser: Estimator) -> None:
        """Raise `ValueError` for a denoiser that cannot be sampled this way; the message starts with a setting."""
        if denoiser.plus_plus and not self.carries_noise:
            raise ValueError(
                f"The sampler {type(self).__name__} cannot be used with guidance.plus_plus=true (CFG++): choose "
                "sampler=ddim or euler, or guidance.plus_plus=false"
            )

    @torch.no_grad()
    def sample(
        self,
        denoiser: Estimator,
        noise: Draw,
        labels: Tensor | None = None,
        observe: Observer | None = None,
        start: Tensor | None = None,
        strength: float = 1.0,
    ) -> Tensor:
        """Draw images.

        Args:
            denoiser: x_t, t, labels → `Estimate`.
            noise: noise() gives the initial noise (B, C, H, W) and that of every step.
            labels: classes (B,) or None.
            observe: called as observe(x_t, x̂_0) after each network evaluation.
            start: clean images (B, C, H, W) to start from instead of pure noise, with noise of time `strength`.
            strength: time in (0, 1] at which the loop begins, on the rest of the time grid.

        Returns:
            images (B, C, H, W), about [−1, 1].
        """
        self.check(denoiser)
        denoise = Denoise(denoiser, labels, self.bound(denoiser), observe)
        times = self.times(denoise.schedule)
        if strength < times[0]:
            shortest = 1e-3 * strength / self.steps  # a time of the grid that is `strength` but for rounding
            times = [strength, *(time for time in times if time < strength - shortest)]
        levels = levels_at(denoise.schedule, times)
        x_t = levels[0].sigma * noise()
        if start is not None:
            x_t = x_t + levels[0].alpha * start
        past: list = []
        for t, s in pairwise(levels):
            x_t = self.step(denoise, denoiser.before_step(denoise, x_t, t, s), t, s, noise, past)
        return x_t

    def step(self, denoise: Denoise, x_t: Tensor, t: Level, s: Level, noise: Draw, past: list) -> Tensor:
        """x_s from x_t. At s = 0 it must be the clean image, without fresh noise.

        Args:
            denoise: denoise(x_t, t) → `Estimate`, clamped; the network evaluation.
            x_t: (B, C, H, W) at level t.
            t, s: the levels before and after, s.t < t.t.
            noise: noise() draws a standard normal of the shape of x_t.
            past: what this sampler wants to remember from step to step; empty at the first.
        """
        raise NotImplementedError


class Conditions(NamedTuple):
    """What images depend on besides their noise and labels.

    Args:
        start, strength: as in `Sampler.sample`; `start` is (n, C, H, W).
        wrap: (denoiser, numbers of a batch's images) → the denoiser to draw them with.
        noise: numbers of a batch's images → their noise; None is `Noise` of the seed.
        passes: evaluations for each one of the sampler, by what `wrap` does before its steps; for the progress bar.
    """

    start: Tensor | None = None
    strength: float = 1.0
    wrap: Callable[[Estimator, range], Estimator] | None = None
    noise: Callable[[range], Draw] | None = None
    passes: int = 1


def draw_images(
    sampler: Sampler,
    denoiser: Estimator,
    shape: Sequence[int],
    labels: Tensor | None,
    n: int,
    seed: int,
    batch_size: int,
    device: torch.device,
    observe: Observer | None = None,
    progress: bool = False,
    given: Conditions | None = None,
    share: range | None = None,
) -> Tensor:
    """n images, batch by batch; image i depends on (seed, i) and not on the batch size, which is halved as often as the
    memory is too small for it.

    Args:
        shape: (C, H, W) of one image.
        labels: classes (n,) or None.
        observe: sees the first batch only; `observe.restart()`, where there is such a thing, is called before that
            batch is begun anew with fewer images.
        progress: show a bar over all network evaluations.
        given: what else they depend on.
        share: which of the n images to draw; None is all.

    Returns:
        float32 (n, C, H, W) on the CPU, or those of the share.
    """
    if n < 1 or batch_size < 1:
        raise ValueError(f"n={n} and batch_size={batch_size} must be at least 1")
    images, given, share = [], given or Conditions(), range(n) if share is None else share
    with progress_bar(
        round(len(share) * sampler.evaluations * given.passes * given.strength),
        "sampling",
        "evaluations",
        disable=not progress,
    ) as bar:
        first = share.start
        while first < share.stop:
            indices = range(first, min(first + batch_size, share.stop))
            batch_labels = None if labels is None else labels[first : indices.stop].to(device)
            counted = bar.n

            def watch(x_t: Tensor, x_0: Tensor, first: int = first) -> None:
                bar.update(len(x_0))
                if observe is not None and first == 0:
                    observe(x_t, x_0)

            noise = Noise(seed, indices, shape, device) if given.noise is None else given.noise(indices)
            wrapped = denoiser if given.wrap is None else given.wrap(denoiser, indices)
            start = None if given.start is None else given.start[first : indices.stop].to(device)
            evaluated = {module: module.evaluated for module in denoiser.modules() if hasattr(module, "evaluated")}
            try:
                drawn = sampler.sample(wrapped, noise, batch_labels, watch, start, given.strength)
            except RuntimeError as error:
                if len(indices) == 1 or not out_of_memory(error):
                    raise
                batch_size = len(indices) // 2
                bar.update(counted - bar.n)
                for module, number in evaluated.items():
                    module.evaluated = number
                restart = getattr(observe, "restart", None)
                if restart is not None and first == 0:
                    restart()
                log.warning("The memory is too small for %d images at once: trying %d.", len(indices), batch_size)
                continue
            images.append(drawn.float().cpu())
            first = indices.stop
    return torch.cat(images)


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that memory ran out; PyTorch has no type of its own for that of the CPU."""
    said = ("out of memory", "not enough memory", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in said)

"""Sampling a consistency model (Song et al. 2023, https://arxiv.org/abs/2303.01469, algorithm 1): every evaluation is a
whole image already; noise is put back on and taken away again, from lower and lower levels, to mend it."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from diffusion.sampler.base import Denoise, Sampler
from diffusion.schedule import Level


class Consistency(Sampler):
    """x_s = α_s x̂_0 + σ_s z, with fresh noise z.

    Args:
        steps, clip, grid: as for every sampler; one to four steps are usual.
    """

    def __init__(self, steps: int = 2, clip: bool = True, grid: str = "uniform") -> None:
        super().__init__(steps, clip, grid)

    def step(
        self, denoise: Denoise, x_t: Tensor, t: Level, s: Level, noise: Callable[[], Tensor], past: list[Any]
    ) -> Tensor:
        x_0 = denoise(x_t, t).x_0
        return x_0 if s.sigma == 0 else s.alpha * x_0 + s.sigma * noise()

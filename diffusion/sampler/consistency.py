"""Sampling a consistency model (Song et al. 2023, https://arxiv.org/abs/2303.01469, algorithm 1): every evaluation is a
whole image already; noise is put back on and taken away again, from lower and lower levels, to mend it."""

from dataclasses import dataclass

from torch import Tensor

from diffusion.sampler.base import Denoise, Draw, Sampler
from diffusion.schedule import Level


@dataclass(eq=False)
class Consistency(Sampler):
    """x_s = α_s x̂_0 + σ_s z, with fresh noise z; one to four steps are usual."""

    steps: int = 2

    def step(self, denoise: Denoise, x_t: Tensor, t: Level, s: Level, noise: Draw, past: list) -> Tensor:
        x_0 = denoise(x_t, t).x_0
        return x_0 if s.sigma == 0 else s.alpha * x_0 + s.sigma * noise()

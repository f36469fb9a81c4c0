"""How a sample is drawn.

base.py         the loop, and the noise that each image sees
grid.py         where the times of the loop lie
ddim.py         DDIM and DDPM, one formula
heun.py         Euler and Heun, with EDM's churn
dpm_solver.py   DPM-Solver++(2M)
unipc.py        UniPC: predictor and corrector from the last estimates
consistency.py  for models after consistency tuning: one to four evaluations
"""

from diffusion.sampler.base import Sampler
from diffusion.sampler.consistency import Consistency
from diffusion.sampler.ddim import DDIM
from diffusion.sampler.dpm_solver import DPMSolver
from diffusion.sampler.heun import Euler, Heun
from diffusion.sampler.unipc import UniPC

__all__ = ["DDIM", "Consistency", "DPMSolver", "Euler", "Heun", "Sampler", "UniPC"]

"""The parts of a run and how far it has got: what the step changes and what a checkpoint keeps."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from diffusion.data.images import ImageData
from diffusion.denoiser import Denoiser
from diffusion.ema import EMA, PowerEMA
from diffusion.guidance import ClassifierFree, Unconditional
from diffusion.loss import Weighted
from diffusion.system import ranks
from diffusion.system.device import Device
from diffusion.timesteps import Timesteps


@dataclass(eq=False, repr=False)
class Parts:
    """What a run trains, and with what; each part is there once.

    Args:
        denoiser: its network already on the device.
        ema: the average of that network.
        optimizer: of its parameters.
        data: what it is trained on.
        guidance: drops labels.
        timesteps: u → t.
        loss: what is minimised.
        device: where and how.
    """

    denoiser: Denoiser
    ema: EMA | PowerEMA
    optimizer: torch.optim.Optimizer
    data: ImageData
    guidance: ClassifierFree | Unconditional
    timesteps: Timesteps
    loss: Weighted
    device: Device

    def __post_init__(self) -> None:
        self.network: nn.Module = self.denoiser.network
        self.parameters: list[Tensor] = list(self.network.parameters())
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.replica: DistributedDataParallel | None = None

    def replicate(self) -> None:
        """Where there are several processes, let their gradients be averaged in each backward pass."""
        if ranks.size() > 1:
            self.replica = DistributedDataParallel(self.network, broadcast_buffers=False)
            self.denoiser.network = self.replica

    def gradients_stay_here(self) -> AbstractContextManager:
        """A block whose backward pass adds to this process's gradients alone."""
        return nullcontext() if self.replica is None else self.replica.no_sync()


@dataclass
class Progress:
    """How far a run has got.

    Args:
        total_steps: its length; with a budget an estimate, made anew after every step.
        step: steps that are done.
        skipped: of them left out, for a loss or gradient that was not finite; in all, and without a good one since.
        saved_step: the step of the newest checkpoint.
        whole: whether what a step changes is as some step has left it, rather than changed in part.
        threads: of the CPU, where the run chose them itself.
    """

    total_steps: int
    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    saved_step: int | None = None
    whole: bool = True
    threads: int | None = None

    @property
    def share(self) -> float:
        """Of the run that is done, in [0, 1]."""
        return self.step / self.total_steps

    @property
    def finished(self) -> bool:
        """Whether this was the last step."""
        return self.step == self.total_steps

"""Other diffusion projects as their packages ship them: network, training step, sampler at 20 network evaluations.

pip install -e ".[bench]"

Each has its own recipe. Where that is left, `COMMON`, `deviations` and `drawing` say so, and whether it is in the
peer's favour. Of those without labels the first three are the recipes as shipped; the next two are adapted to short
runs, for which a warm-up of 500 steps or a batch of 1,024 images is too much; the last is for GPUs, as large as our
`unet_base`. A name that ends with "_own" is the same training, drawn as its project draws, in more evaluations than 20.
"""

from collections.abc import Callable
from functools import partial

import torch

from peers.base import COMMON, EVALUATIONS, Peer
from peers.labelled import GuidedDenoisingDiffusion, SmallDiffusionDiT, TorchCFM
from peers.nanoflow import NanoFlow
from peers.unlabelled import DenoisingDiffusion, Diffusers, SmallDiffusion

__all__ = ["COMMON", "EVALUATIONS", "LABELLED", "PEERS", "TRAINED_AS", "UNLABELLED", "Peer", "make"]

UNLABELLED: dict[str, Callable[[torch.device], Peer]] = {
    "diffusers": Diffusers,
    "denoising_diffusion_pytorch": DenoisingDiffusion,
    "smalldiffusion": SmallDiffusion,
    "diffusers_decay": partial(Diffusers, decays=True),
    "smalldiffusion_32": partial(SmallDiffusion, batch_size=32),
    "diffusers_wide": partial(Diffusers, widths=(128, 256, 256), batch_size=256, bf16=True),
}
LABELLED: dict[str, Callable[[torch.device], Peer]] = {
    "nanoflow": NanoFlow,
    "nanoflow_own": partial(NanoFlow, own=True),
    "torchcfm": TorchCFM,
    "torchcfm_own": partial(TorchCFM, own=True),
    "denoising_diffusion_pytorch_cfg": GuidedDenoisingDiffusion,
    "smalldiffusion_dit": SmallDiffusionDiT,
}
PEERS = {**UNLABELLED, **LABELLED}
TRAINED_AS = {"nanoflow_own": "nanoflow", "torchcfm_own": "torchcfm"}


def make(name: str, device: torch.device) -> Peer:
    """A peer by its name in `PEERS`, untrained; `SystemExit` when its package is not installed."""
    try:
        return PEERS[name](device)
    except ModuleNotFoundError as error:
        raise SystemExit(f'{name} needs a package that is missing ({error}): pip install -e ".[bench]"') from error

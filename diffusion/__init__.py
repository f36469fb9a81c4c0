"""Simple Diffusion: train, sample and measure diffusion models on small images.

The theory comes first; read it in this order, each file is one idea.

    schedule.py     t → (α, σ): how noisy x_t is
    objective.py    what the network predicts, and how x̂_0 follows from it
    timesteps.py    which noise levels are trained
    denoiser.py     network + schedule + objective: x_t → x̂_0
    guidance.py     label dropout in training, guidance in sampling
    ema.py          the averaged weights
    variational.py  the bound on the likelihood
    optimizer.py    Muon
    loss/           what is minimised: weighted squared errors, the variational bound, consistency
    sampler/        from noise to images: base.py (the loop), ddim.py, and faster ones
    networks/       unet_simple.py (the educational U-Net), unet.py (the modern one), dit.py (a transformer)

The other rooms serve it.

    model.py        a trained model for Python
    export/         a model for programs without this package
    training/       step.py and loop.py: how it is trained
    drawing/        what draws images from a denoiser, and pictures for people
    tasks/          what a trained model can do besides: inpainting, inversion, …
    evaluation/     the scorer, FID, Inception Score, likelihood, the report
    data/           images in memory and in files, the data sets
    records/        what a run leaves behind: checkpoints, TensorBoard, scores
    config/         the command line and config → objects: the only room that knows Hydra
    system/         device, processes, files, files from strangers, progress bars, random streams, errors
    assets/         the images and the scorer that come with the package
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"  # as in pyproject.toml

if TYPE_CHECKING:
    from diffusion.model import Model


def load(path: Any, **settings: Any) -> "Model":
    """A trained model, to sample from and to denoise with; arguments as in `diffusion.model.load`."""
    from diffusion.model import load  # here, so that the command line starts without waiting for torch

    return load(path, **settings)

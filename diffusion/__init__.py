"""Simple Diffusion: train, sample and measure diffusion models on small images.

Read it in this order; each file is one idea.

    schedule.py     t → (α, σ): how noisy x_t is
    objective.py    what the network predicts, and how x̂_0 follows from it
    timesteps.py    which noise levels are trained
    denoiser.py     network + schedule + objective: x_t → x̂_0
    loss/           what is minimised: weighted squared errors, the variational bound, consistency
    guidance.py     label dropout in training, guidance in sampling
    sampler/        from noise to images: base.py (the loop), ddim.py, and faster ones
    networks/       layers.py, unet_simple.py (the educational U-Net), unet.py (the modern one), dit.py (a transformer)
    ema.py          the averaged weights
    training.py     the loop

Around them: variational.py (the bound on the likelihood), data.py and datasets.py, device.py, randomness.py, pacing.py
(length and learning rate), running_sums.py, interruption.py (Ctrl-C), checkpoint.py, tracking.py (TensorBoard),
image_model.py (a model that draws), monitor.py (grids and scores of a run), tasks/ (inpainting, inversion, …),
pictures.py, progress.py, files.py, errors.py, evaluation/ (the scorer, FID, Inception Score, likelihood), model.py (a
trained model for Python) and, where Hydra comes in, build.py (config → objects), settings.py (its checks), trained.py
(checkpoint → model), cli.py and leaderboard.py.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusion.model import Model


def load(path: Any, **settings: Any) -> "Model":
    """A trained model, to sample from and to denoise with; see `diffusion.model.load`.

    Args:
        path: a run folder, a checkpoint, a .safetensors file that `Model.save` wrote, or "latest".
        settings: device="cpu", averaged=True, ema_width=None, …
    """
    from diffusion.model import load  # here, so that the command line starts without waiting for torch

    return load(path, **settings)

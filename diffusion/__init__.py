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
    config/         the command line and config → objects; only this room and the commands know Hydra
    system/         device, processes, files, files from strangers, progress bars, random streams, errors
    assets/         the images and the scorer that come with the package

From Python: `compose` settings, `train`, `load` or `evaluate` a model, `show` images (docs/python.md).
"""

from typing import TYPE_CHECKING, Any

from diffusion.system.errors import UserError as UserError

__version__ = "0.1.0"  # as in pyproject.toml

if TYPE_CHECKING:
    from PIL.Image import Image

    from diffusion.config.composing import Settings
    from diffusion.evaluation.score_table import ScoreTable
    from diffusion.model import Model


# Each is imported when it is asked for, so that the command line starts without waiting for torch.


def compose(*overrides: str, config_dir: Any = None) -> "Settings":
    """The settings of a run, as `python train.py …` makes them of the same words.

    Args:
        overrides: "experiment=ema", "model.width=32", …
        config_dir: a folder of options of your own, as --config-dir.

    Returns:
        a dictionary of dictionaries; what is changed in it counts as if it had been said here.

    Raises:
        UserError: there is no such setting or option; in one sentence, with what may be meant.
    """
    from diffusion.config.composing import compose

    return compose(*overrides, config_dir=config_dir)


def train(config: Any = (), folder: Any = None, progress: bool = True) -> "Model":
    """A model, trained by settings of `compose`; arguments as in `diffusion.model.train`."""
    from diffusion.model import train

    return train(config, folder, progress)


def load(path: Any, **settings: Any) -> "Model":
    """A trained model, to sample from and to denoise with; arguments as in `diffusion.model.load`."""
    from diffusion.model import load

    return load(path, **settings)


def evaluate(what: Any, *overrides: str, **settings: Any) -> "ScoreTable":
    """Scores of a model or of images beside those of real ones; arguments as in `diffusion.model.evaluate`."""
    from diffusion.model import evaluate

    return evaluate(what, *overrides, **settings)


def show(images: Any, **layout: Any) -> "Image":
    """Images as one picture, for a notebook; arguments as in `diffusion.drawing.showing.show`."""
    from diffusion.drawing.showing import show

    return show(images, **layout)

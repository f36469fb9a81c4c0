"""The quickstart in small by plain constructors, without a config: data, network, denoiser, a run, its checkpoint."""

from functools import cache

import torch

from diffusion.data.datasets import fashion_mnist_mini
from diffusion.denoiser import Denoiser
from diffusion.drawing.image_model import ImageModel
from diffusion.ema import EMA
from diffusion.guidance import ClassifierFree
from diffusion.loss import Target
from diffusion.networks.unet import UNet
from diffusion.objective import V
from diffusion.optimizer import Muon
from diffusion.records import checkpoint
from diffusion.records.tensorboard import TensorBoard
from diffusion.sampler import UniPC
from diffusion.schedule import Cosine
from diffusion.system.device import Device
from diffusion.timesteps import LogitNormal

CONFIG = {  # what a checkpoint must say of its model
    "data": {"_target_": "diffusion.data.datasets.fashion_mnist_mini"},
    "model": {"_target_": "diffusion.networks.unet.UNet", "width": 8},
    "schedule": {"_target_": "diffusion.schedule.Cosine"},
    "objective": {"_target_": "diffusion.objective.V"},
    "loss": {"_target_": "diffusion.loss.Target"},
    "guidance": {"_target_": "diffusion.guidance.ClassifierFree"},
    "sampler": {"_target_": "diffusion.sampler.UniPC", "steps": 2},
}


@cache
def data():
    return fashion_mnist_mini()


@cache
def image():
    return data().describe()


def network(**settings):
    """A U-Net of a few thousand weights, of ten classes of grey 28×28 pixels; untrained, and always the same."""
    small = {"channels": 1, "image_size": 28, "num_classes": 10, "width": 8, "multipliers": [1, 2], "blocks": 1}
    small |= {"patch": 2, "head_width": 8, "groups": 4}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet(**{**small, **settings})


def perturbed(module, scale=0.1):
    """The module with noise on every weight: an untrained network ends in zeros and says nothing."""
    noise = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.data += scale * torch.randn(parameter.shape, generator=noise)
    return module


def denoiser(learns_variance=False, **settings):
    """A denoiser that answers something, for inference."""
    heads = {"out_channels": 2} if learns_variance else {}
    return Denoiser(perturbed(network(**heads, **settings)), Cosine(), V(), learns_variance).eval()


def state(step=8):
    """A checkpoint of a run that is done, as a dictionary."""
    trained = perturbed(network())
    ema = EMA(trained)
    return {
        "config": CONFIG,
        "image": image(),
        "step": step,
        "total_steps": 8,
        "network": trained.state_dict(),
        "ema": ema.state_dict(),
        "optimizer": Muon(trained.parameters()).state_dict(),
        "timesteps": {},
        "sums": torch.zeros(3),
        "best": None,
        "skipped": 0,
        "seconds": 1.5,
    }


def make(
    folder, resume=None, timesteps=None, ema=EMA, loss=None, optimizer=Muon, device=None, scorer=None, n=10, **plan
):
    """The trainer of a run in `folder`; the caller closes `trainer.tracker`.

    Args:
        resume: a checkpoint to go on from.
        timesteps, ema, loss, optimizer, device: in the place of the quickstart's; `ema` and `optimizer` are called
            with the network and its parameters.
        scorer: for scores of n images.
        plan: settings of the training.
    """
    from diffusion.training.loop import Trainer
    from diffusion.training.monitor import Monitor
    from diffusion.training.parts import Parts
    from diffusion.training.plan import Plan

    folder.mkdir(exist_ok=True)
    length = {} if "budget" in plan else {"steps": 4}
    small = {"batch_size": 8, **length, "log_every": 3, "checkpoint_every": 4, "preview_every": 0}
    plan, loss = Plan(**{**small, **plan}), loss or Target()
    guidance = ClassifierFree(0.1, scale=2.25, interval=[0.0, 2.9])
    device = device or Device("cpu", precision="fp32")
    trained = device.place(network(out_channels=2 if loss.learns_variance else 1))
    average = ema(trained)
    mine, averaged = (Denoiser(each, Cosine(), V(), loss.learns_variance) for each in (trained, average.network))
    weights = optimizer(list(trained.parameters()))
    parts = Parts(mine, average, weights, data(), guidance, timesteps or LogitNormal(-0.4, 1.3), loss, device)
    tracker = TensorBoard(folder, first_step=resume["step"] + 1 if resume else 0)
    model = ImageModel(averaged, guidance, device, image())
    monitor = Monitor(model, UniPC(2), parts, tracker, folder, n if scorer else 0, held_out=32)
    monitor.scorer = scorer
    header = {"config": {**CONFIG, "training": vars(plan)}, "image": image()}
    trainer = Trainer(parts, plan, monitor, tracker, folder, 0, header)
    if resume is not None:
        trainer.state.load_state_dict(resume)
    return trainer


def train(folder, resume=None, stop_at=None, **settings):
    """Train in `folder`; with `stop_at`, leave abruptly before that step, as a kill would. The final checkpoint."""
    trainer = make(folder, resume, **settings)
    step = trainer.train_step

    def counted(batch):
        if trainer.progress.step == stop_at:
            raise ProcessLookupError("killed")
        return step(batch)

    trainer.train_step = counted
    try:
        trainer.fit()
    except ProcessLookupError:
        pass
    finally:
        trainer.tracker.close()
    return checkpoint.load(folder / "last.pt")

"""Other diffusion projects as their packages ship them: network, training step, sampler at 20 network evaluations.

pip install -e ".[bench]"

Each has its own recipe. Where that is left, `COMMON` and `deviations` say so, and whether it is in the peer's favour.
Of `PEERS` the first three are the recipes as shipped; the next two are adapted to short runs, for which a warm-up of
500 steps or a batch of 1,024 images is too much; the last is for GPUs, as large as our `unet_base`.

Sources: diffusers/examples/unconditional_image_generation (its script's defaults and its README's command), the class
`Trainer` of denoising-diffusion-pytorch, smalldiffusion/examples/fashion_mnist_unet.py.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion.data.images import crop_images, decode, encode, pad_images

EVALUATIONS = 20
DRAWN_AT_ONCE = 50
COMMON = (
    "its training loop is written out with the same settings and fed from memory: no loader, log, preview or "
    "checkpoint (in its favour)",
    "images are not mirrored at random: garments look one way (in its favour)",
    f"images are drawn {DRAWN_AT_ONCE} at a time",
)
PADDED = "28×28 pixels get a black border to 32×32, where its script would enlarge them (in its favour)"


class Peer(ABC):
    """A project with its untrained network.

    Attributes:
        padding: pixels that it gets on every side (28 → 32 is 2).
        network: what it trains; after `finish` with the averaged weights.
        batch_size: images per optimizer step.
        at_once: of them that go through the network together, for memory; the gradient is the same.
        deviations: from the recipe as it is shipped, besides `COMMON`.
        progress: share of the run that is over, which the training loop keeps up to date.
    """

    padding: int
    network: nn.Module
    optimizer: torch.optim.Optimizer
    bf16 = False

    def __init__(self, device: torch.device, batch_size: int, deviations: tuple[str, ...] = ()) -> None:
        self.device, self.batch_size, self.deviations = device, batch_size, deviations
        self.at_once, self.progress = batch_size, 0.0

    def step(self, images: Tensor) -> Tensor:
        """One optimizer step on uint8 (B, 1, 28, 28); the mean loss before it, ()."""
        self.network.train()
        total = torch.zeros((), device=self.device)
        for part in images.to(self.device).split(self.at_once):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                loss = self.loss(encode(pad_images(part, self.padding))) * (len(part) / len(images))
            loss.backward()
            total += loss.detach()
        self.update()
        return total

    def sample(self, n: int) -> Tensor:
        """Draw n images, uint8 (n, 1, 28, 28) on the CPU, with 20 network evaluations each."""
        self.network.eval()
        parts = []
        with torch.no_grad():
            for first in range(0, n, DRAWN_AT_ONCE):
                parts.append(decode(self.draw(min(DRAWN_AT_ONCE, n - first))).cpu())
        return crop_images(torch.cat(parts), self.padding)

    def inputs(self, n: int) -> tuple[Tensor, Tensor]:
        """What the network is called with for n images: x (n, 1, S, S) and times (n,) or (n, 1, 1, 1)."""
        size = 28 + 2 * self.padding
        times = torch.full((n,), 500, device=self.device)
        return torch.randn(n, 1, size, size, device=self.device), times

    @abstractmethod
    def loss(self, x_0: Tensor) -> Tensor:
        """The mean loss, (), of images (B, 1, S, S) in [−1, 1]."""

    @abstractmethod
    def update(self) -> None:
        """What follows the backward pass: clipping, optimizer, learning rate, average."""

    @abstractmethod
    def finish(self) -> None:
        """Give the averaged weights to the network, which draws from now on."""

    @abstractmethod
    def draw(self, n: int) -> Tensor:
        """n images (n, 1, S, S) in [−1, 1]."""


class Diffusers(Peer):
    """Hugging Face's diffusers: `UNet2DModel`, trained as examples/unconditional_image_generation does.

    Args:
        device: where.
        widths: of the three resolutions.
        batch_size: images per step; 16 is the example's.
        decays: warm-up and cosine decay take the share of the run that they have of the example's 100 epochs, instead
            of a number of steps that a short run does not reach.
        bf16: as the example's --mixed_precision=bf16; it ships with "no".
    """

    padding = 2
    rate, steps = 1e-4, 100 * 60_000 // 16

    def __init__(
        self,
        device: torch.device,
        widths: tuple[int, ...] = (64, 128, 128),
        batch_size: int = 16,
        decays: bool = False,
        bf16: bool = False,
    ) -> None:
        from diffusers import DDPMScheduler, UNet2DModel
        from diffusers.optimization import get_scheduler
        from diffusers.training_utils import EMAModel

        deviations = [
            f"`UNet2DModel` with widths {widths} for 32×32 pixels instead of the example's six widths for 64×64",
            PADDED,
            "drawn by its `DDIMPipeline` instead of `DDPMPipeline`, which 20 steps do not suit (in its favour)",
        ]
        if decays:
            deviations.append("warm-up and cosine decay are scaled to the length of the run (in its favour)")
        if batch_size != 16:
            deviations.append(f"batch size {batch_size} instead of 16")
        super().__init__(device, batch_size, tuple(deviations))
        self.network = UNet2DModel(
            sample_size=32,
            in_channels=1,
            out_channels=1,
            layers_per_block=2,
            block_out_channels=widths,
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        ).to(device)
        self.decays, self.bf16 = decays, bf16
        self.noises = DDPMScheduler(num_train_timesteps=1000)
        parameters = self.network.parameters()
        self.optimizer = torch.optim.AdamW(parameters, lr=self.rate, betas=(0.95, 0.999), weight_decay=1e-6)
        self.schedule = get_scheduler("cosine", self.optimizer, num_warmup_steps=500, num_training_steps=self.steps)
        self.ema = EMAModel(self.network.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)

    def loss(self, x_0: Tensor) -> Tensor:
        noise, t = torch.randn_like(x_0), torch.randint(1000, (len(x_0),), device=self.device)
        return F.mse_loss(self.network(self.noises.add_noise(x_0, noise, t), t).sample.float(), noise)

    def update(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        if self.decays:
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate * self.schedule.lr_lambdas[0](self.progress * self.steps)
        self.optimizer.step()
        if not self.decays:
            self.schedule.step()
        self.ema.step(self.network.parameters())
        self.optimizer.zero_grad()

    def finish(self) -> None:
        self.ema.copy_to(self.network.parameters())

    def draw(self, n: int) -> Tensor:
        from diffusers import DDIMPipeline, DDIMScheduler

        pipeline = DDIMPipeline(unet=self.network, scheduler=DDIMScheduler.from_config(self.noises.config))
        pipeline.set_progress_bar_config(disable=True)
        return 2 * pipeline(batch_size=n, num_inference_steps=EVALUATIONS, output_type="pt").images - 1


class DenoisingDiffusion(Peer):
    """Phil Wang's denoising-diffusion-pytorch: its `Unet` and `GaussianDiffusion`, trained as its `Trainer` does."""

    padding = 2

    def __init__(self, device: torch.device) -> None:
        from denoising_diffusion_pytorch import GaussianDiffusion, Unet
        from ema_pytorch import EMA

        super().__init__(device, 16, (PADDED,))
        self.network = Unet(dim=64, dim_mults=(1, 2, 2), channels=1)
        self.diffusion = GaussianDiffusion(
            self.network, image_size=32, timesteps=1000, sampling_timesteps=EVALUATIONS, auto_normalize=False
        ).to(device)
        self.optimizer = torch.optim.Adam(self.diffusion.parameters(), lr=1e-4, betas=(0.9, 0.99))
        self.ema = EMA(self.diffusion, beta=0.995, update_every=10)

    def loss(self, x_0: Tensor) -> Tensor:
        return self.diffusion(x_0)

    def update(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.diffusion.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update()

    def finish(self) -> None:
        self.ema.copy_params_from_ema_to_model()

    def draw(self, n: int) -> Tensor:
        return self.diffusion.sample(batch_size=n)


class SmallDiffusion(Peer):
    """Chenyang Yuan's smalldiffusion, as its examples/fashion_mnist_unet.py.

    Args:
        device: where.
        batch_size: images per step; 1,024 is the example's.
    """

    padding = 0

    def __init__(self, device: torch.device, batch_size: int = 1024) -> None:
        from accelerate import Accelerator
        from smalldiffusion import Scaled, ScheduleLogLinear, Unet

        deviations = [
            "its average, by the package torch-ema, is written out, and updated after each step instead of before it"
        ]
        at_once = min(batch_size, 128) if device.type == "cpu" else batch_size
        if batch_size != 1024:
            deviations.append(f"batch size {batch_size} instead of 1,024, of which a short run has few (in its favour)")
        if at_once != batch_size:
            deviations.append(f"{at_once} images of a batch at a time, for memory; the gradient is the same")
        super().__init__(device, batch_size, tuple(deviations))
        self.at_once = at_once
        self.accelerator = Accelerator(cpu=device.type == "cpu")
        self.network = Scaled(Unet)(28, 1, 1, ch=64, ch_mult=(1, 1, 2), attn_resolutions=(14,)).to(device)
        self.schedule = ScheduleLogLinear(sigma_min=0.01, sigma_max=20, N=800)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=7e-4)
        self.average, self.updates = deepcopy(self.network).requires_grad_(False), 0

    def inputs(self, n: int) -> tuple[Tensor, Tensor]:
        x, sigma = super().inputs(n)
        return x, sigma.view(n, 1, 1, 1).float()

    def loss(self, x_0: Tensor) -> Tensor:
        from smalldiffusion import generate_train_sample

        x_0, sigma, noise, _ = generate_train_sample(x_0, self.schedule)
        return self.network.get_loss(x_0, sigma, noise)  # type: ignore[operator]

    def update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.updates += 1
        average, weights = list[Tensor](self.average.parameters()), list[Tensor](self.network.parameters())
        with torch.no_grad():
            torch._foreach_lerp_(average, weights, 1 - warming_decay(self.updates))

    def finish(self) -> None:
        self.network.load_state_dict(self.average.state_dict())

    def draw(self, n: int) -> Tensor:
        from smalldiffusion import samples

        sigmas = self.schedule.sample_sigmas(EVALUATIONS)
        *_, x_0 = samples(self.network, sigmas, gam=1.6, batchsize=n, accelerator=self.accelerator)
        return x_0


def warming_decay(updates: int) -> float:
    """The decay of an average's update 1, 2, …: 0.999, and less during the first."""
    return min(0.999, (1 + updates) / (10 + updates))


PEERS: dict[str, Callable[[torch.device], Peer]] = {
    "diffusers": Diffusers,
    "denoising_diffusion_pytorch": DenoisingDiffusion,
    "smalldiffusion": SmallDiffusion,
    "diffusers_decay": partial(Diffusers, decays=True),
    "smalldiffusion_32": partial(SmallDiffusion, batch_size=32),
    "diffusers_wide": partial(Diffusers, widths=(128, 256, 256), batch_size=256, bf16=True),
}


def make(name: str, device: torch.device) -> Peer:
    """A peer by its name in `PEERS`, untrained; `SystemExit` when its package is not installed."""
    try:
        return PEERS[name](device)
    except ModuleNotFoundError as error:
        raise SystemExit(f'{name} needs a package that is missing ({error}): pip install -e ".[bench]"') from error

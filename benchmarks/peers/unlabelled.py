"""Recipes that know no labels, as their packages ship them: network, training step, 20 steps of their sampler.

Sources: diffusers/examples/unconditional_image_generation (its script's defaults and its README's command), the class
`Trainer` of denoising-diffusion-pytorch, smalldiffusion/examples/fashion_mnist_unet.py.
"""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peers.base import EVALUATIONS, PADDED, Peer


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

    def loss(self, x_0: Tensor, labels: Tensor) -> Tensor:
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

    def draw(self, labels: Tensor) -> Tensor:
        from diffusers import DDIMPipeline, DDIMScheduler

        pipeline = DDIMPipeline(unet=self.network, scheduler=DDIMScheduler.from_config(self.noises.config))
        pipeline.set_progress_bar_config(disable=True)
        return 2 * pipeline(batch_size=len(labels), num_inference_steps=EVALUATIONS, output_type="pt").images - 1


class DenoisingDiffusion(Peer):
    """Phil Wang's denoising-diffusion-pytorch: its `Unet` and `GaussianDiffusion`, trained as its `Trainer` does."""

    padding = 2

    def __init__(self, device: torch.device) -> None:
        from ema_pytorch import EMA

        super().__init__(device, 16, (PADDED,))
        self.network, diffusion = self.build()
        self.diffusion: Any = diffusion.to(device)
        self.optimizer = torch.optim.Adam(self.diffusion.parameters(), lr=1e-4, betas=(0.9, 0.99))
        self.ema = EMA(self.diffusion, beta=0.995, update_every=10)

    def build(self) -> tuple[nn.Module, nn.Module]:
        """The network, and the diffusion that trains it and draws with it."""
        from denoising_diffusion_pytorch import GaussianDiffusion, Unet

        network = Unet(dim=64, dim_mults=(1, 2, 2), channels=1)
        return network, GaussianDiffusion(
            network, image_size=32, timesteps=1000, sampling_timesteps=EVALUATIONS, auto_normalize=False
        )

    def loss(self, x_0: Tensor, labels: Tensor) -> Tensor:
        return self.diffusion(x_0)

    def update(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.diffusion.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update()

    def finish(self) -> None:
        self.ema.copy_params_from_ema_to_model()

    def draw(self, labels: Tensor) -> Tensor:
        return self.diffusion.sample(batch_size=len(labels))


class SmallDiffusion(Peer):
    """Chenyang Yuan's smalldiffusion, as its examples/fashion_mnist_unet.py.

    Args:
        device: where.
        batch_size: images per step; 1,024 is the example's.
    """

    padding = 0
    rate, decay = 7e-4, 0.999

    def __init__(self, device: torch.device, batch_size: int = 1024) -> None:
        from accelerate import Accelerator

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
        network, self.schedule = self.build()
        self.network = network.to(device)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=self.rate)
        self.average, self.updates = deepcopy(self.network).requires_grad_(False), 0

    def build(self) -> tuple[nn.Module, Any]:
        """The network and the noise levels."""
        from smalldiffusion import Scaled, ScheduleLogLinear, Unet

        network = Scaled(Unet)(28, 1, 1, ch=64, ch_mult=(1, 1, 2), attn_resolutions=(14,))
        return network, ScheduleLogLinear(sigma_min=0.01, sigma_max=20, N=800)

    def inputs(self, n: int) -> tuple[Tensor, ...]:
        x, sigma = super().inputs(n)
        labels = [torch.zeros(n, dtype=torch.long, device=self.device)] if self.conditional else []
        return x, sigma.view(n, 1, 1, 1).float(), *labels

    def loss(self, x_0: Tensor, labels: Tensor) -> Tensor:
        from smalldiffusion import generate_train_sample

        given = (x_0, labels) if self.conditional else x_0
        x_0, sigma, noise, known = generate_train_sample(given, self.schedule, self.conditional)
        return self.network.get_loss(x_0, sigma, noise, cond=known)  # type: ignore[operator]

    def update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.updates += 1
        average, weights = list[Tensor](self.average.parameters()), list[Tensor](self.network.parameters())
        with torch.no_grad():
            torch._foreach_lerp_(average, weights, 1 - warming_decay(self.updates, self.decay))

    def finish(self) -> None:
        self.network.load_state_dict(self.average.state_dict())

    def draw(self, labels: Tensor) -> Tensor:
        from smalldiffusion import samples

        sigmas, known = self.schedule.sample_sigmas(EVALUATIONS), labels if self.conditional else None
        many, where = len(labels), self.accelerator
        *_, x_0 = samples(self.network, sigmas, gam=1.6, batchsize=many, cond=known, accelerator=where)
        return x_0


def warming_decay(updates: int, highest: float = 0.999) -> float:
    """The decay of an average's update 1, 2, …: the highest, and less during the first."""
    return min(highest, (1 + updates) / (10 + updates))

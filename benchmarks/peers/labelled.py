"""Recipes that learn with labels, as their packages ship them.

Sources: conditional-flow-matching/examples/images/conditional_mnist.ipynb, the example at the end of
denoising_diffusion_pytorch/classifier_free_guidance.py, smalldiffusion/examples/fashion_mnist_dit_cond.py.
"""

from typing import Any

import torch
from torch import Tensor, nn

from peers.base import CLASSES, EVALUATIONS, Peer
from peers.unlabelled import DenoisingDiffusion, SmallDiffusion


class TorchCFM(Peer):
    """Alexander Tong's torchcfm: its U-Net and `ConditionalFlowMatcher`, as the notebook for MNIST trains them.

    Args:
        device: where.
        own: drawn by the notebook's adaptive solver instead of 20 steps of Euler.
    """

    padding, conditional = 0, True

    def __init__(self, device: torch.device, own: bool = False) -> None:
        from torchcfm.conditional_flow_matching import ConditionalFlowMatcher
        from torchcfm.models.unet import UNetModel

        super().__init__(device, 128, ("its recipe is for MNIST, which has as many images of the same size",))
        self.own = own
        if own:
            self.drawing = ("drawn by its own solver, dopri5 with tolerances of 1e-4",)
        else:
            self.drawing = ("drawn by Euler's steps, as its CIFAR-10 example can, instead of the notebook's dopri5",)
        network = UNetModel(dim=(1, 28, 28), num_channels=32, num_res_blocks=1, num_classes=CLASSES, class_cond=True)
        self.network = network.to(device)
        self.optimizer = torch.optim.Adam(self.network.parameters())
        self.matcher = ConditionalFlowMatcher(sigma=0.0)

    def inputs(self, n: int) -> tuple[Tensor, ...]:
        x, _ = super().inputs(n)
        return torch.full((n,), 0.5, device=self.device), x, torch.zeros(n, dtype=torch.long, device=self.device)

    def loss(self, x_0: Tensor, labels: Tensor) -> Tensor:
        t, x_t, velocity = self.matcher.sample_location_and_conditional_flow(torch.randn_like(x_0), x_0)
        return (self.network(t, x_t, labels) - velocity).square().mean()

    def update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()

    def finish(self) -> None:
        """It has no average."""

    def sample(self, n: int) -> tuple[Tensor, Tensor | None]:
        self.calls: list[int] = []  # images in each
        drawn = super().sample(n)
        self.evaluations = sum(self.calls) / n
        return drawn

    def draw(self, labels: Tensor) -> Tensor:
        from torchdiffeq import odeint

        def velocity(t: Tensor, x_t: Tensor) -> Tensor:
            self.calls.append(len(x_t))
            return self.network(t, x_t, labels)

        noise = torch.randn(len(labels), 1, 28, 28, device=self.device)
        times = torch.linspace(0, 1, 2 if self.own else EVALUATIONS + 1, device=self.device)
        how = {"method": "dopri5", "atol": 1e-4, "rtol": 1e-4} if self.own else {"method": "euler"}
        return odeint(velocity, noise, times, **how)[-1]


class GuidedDenoisingDiffusion(DenoisingDiffusion):
    """denoising-diffusion-pytorch's classifier_free_guidance.py, trained as the package's `Trainer` does.

    Its images lie in [0, 1].
    """

    conditional = True

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        few = "widths (64, 128, 128) instead of the example's four, which are for 128×128 pixels (in its favour)"
        self.deviations = (*self.deviations, few, "the module has no trainer: that of the package without labels")
        self.drawing = (f"drawn in {EVALUATIONS // 2} steps of DDIM, guided with the module's scale of 6",)

    def build(self) -> tuple[nn.Module, nn.Module]:
        from denoising_diffusion_pytorch.classifier_free_guidance import GaussianDiffusion, Unet

        network = Unet(dim=64, dim_mults=(1, 2, 2), channels=1, num_classes=CLASSES, cond_drop_prob=0.5)
        steps = EVALUATIONS // 2
        return network, GaussianDiffusion(network, image_size=32, timesteps=1000, sampling_timesteps=steps)

    def inputs(self, n: int) -> tuple[Tensor, ...]:
        return *super().inputs(n), torch.zeros(n, dtype=torch.long, device=self.device)

    def loss(self, x_0: Tensor, labels: Tensor) -> Tensor:
        return self.diffusion((x_0 + 1) / 2, classes=labels)

    def draw(self, labels: Tensor) -> Tensor:
        return 2 * self.diffusion.sample(classes=labels, cond_scale=6.0) - 1


class SmallDiffusionDiT(SmallDiffusion):
    """smalldiffusion's transformer with labels, as its examples/fashion_mnist_dit_cond.py, in smaller batches."""

    conditional = True
    rate, decay = 1e-3, 0.99
    drawing = (f"drawn in {EVALUATIONS} steps without guidance, as its example does",)

    def __init__(self, device: torch.device) -> None:
        super().__init__(device, batch_size=32)

    def build(self) -> tuple[nn.Module, Any]:
        from smalldiffusion import CondEmbedderLabel, DiT, ScheduleDDPM

        shape = {"patch_size": 2, "depth": 6, "head_dim": 32, "num_heads": 6, "mlp_ratio": 4.0}
        labels = CondEmbedderLabel(32 * 6, CLASSES, 0.1)
        network = DiT(in_dim=28, channels=1, cond_embed=labels, **shape)
        return network, ScheduleDDPM(beta_start=0.0001, beta_end=0.02, N=1000)

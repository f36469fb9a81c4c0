"""One optimizer step, as in algorithm 1 of Ho et al. 2020 (https://arxiv.org/abs/2006.11239):

    t ~ p(t),   ε ~ N(0, I),   x_t = α(t) x_0 + σ(t) ε,   a step down the gradient of the loss of F(x_t, t, label)

Step k draws its noise, times and dropped labels, and how its images are varied, from streams addressed by (seed, k),
for the whole batch at once and sliced afterwards, so that neither micro-batches nor processes nor a resume change them.
Nothing here waits for the device.
"""

import logging
import math
from contextlib import nullcontext

import torch
from torch import Tensor

from diffusion.data.images import encode, pad_images
from diffusion.system import ranks
from diffusion.system.randomness import TRAINING, stream
from diffusion.timesteps import Timesteps
from diffusion.training.parts import Parts, Progress
from diffusion.training.plan import Plan
from diffusion.training.running_sums import RunningSums

log = logging.getLogger("diffusion")


class TrainStep:
    """The step of a run.

    Args:
        parts: what it trains, and with what.
        plan: batch size, micro-batches, clipping, learning rate.
        progress: which step it is, of how many.
        sums: takes the losses.
        seed: of all random numbers.
    """

    def __init__(self, parts: Parts, plan: Plan, progress: Progress, sums: RunningSums, seed: int) -> None:
        self.parts, self.plan, self.progress, self.sums, self.seed = parts, plan, progress, sums, seed
        self.part = plan.part

    def __call__(self, batch: tuple[Tensor, Tensor | None]) -> None:
        """Learn from this process's images, uint8 (b, C, H, W), and labels (b,) or None, of a batch of B."""
        parts, optimizer = self.parts, self.parts.optimizer
        images, labels = batch
        images = parts.data.augmentation(images, self.seed, self.progress.step, self.plan.batch_size, self.part)
        x_0 = pad_images(images, parts.data.padding).to(memory_format=parts.device.memory_format)
        every_t, noise, u_label = self.draw(x_0)
        weight = parts.timesteps.weight(every_t)
        t, weight = every_t[self.part], weight[self.part] if isinstance(weight, Tensor) else weight
        labels = parts.guidance.drop(labels, u_label, parts.denoiser.num_classes)
        losses, weighted = self.backward(x_0, t, noise, labels, weight)
        norm = torch.nn.utils.clip_grad_norm_(parts.parameters, self.plan.clip_norm or math.inf)
        if self.plan.nonfinite == "skip" and any(ranks.largest(not bool(torch.isfinite(norm + weighted.sum())))):
            self.skip()
            return
        self.progress.whole = False
        factor = self.plan.rate_factor(self.progress.step, self.progress.total_steps)
        for group, rate in zip(optimizer.param_groups, parts.base_rates, strict=True):
            group["lr"] = rate * factor
        with parts.device.autocast():  # Muon multiplies matrices
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        parts.ema.update(parts.network)
        if ranks.size() > 1 and type(parts.timesteps).observe is not Timesteps.observe:
            parts.timesteps.observe(every_t, ranks.gather(losses, self.plan.batch_size))
        else:
            parts.timesteps.observe(t, losses)
        self.sums.add(losses, weighted, t, norm, self.plan.batch_size)
        self.progress.step, self.progress.skipped_in_a_row = self.progress.step + 1, 0
        self.progress.whole = True

    def draw(self, x_0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Times of the whole batch (B,), and for this process's part noise (b, C, H, W) and u (b,) to drop labels."""
        place, size = x_0.device, self.plan.batch_size
        generator = stream(self.seed, TRAINING, self.progress.step, device=place)
        u_time, u_label = torch.rand(2, size, generator=generator, device=place)
        noise = torch.randn((size, *x_0.shape[1:]), generator=generator, device=place)
        return self.parts.timesteps(u_time), noise[self.part], u_label[self.part]

    def backward(
        self, x_0: Tensor, t: Tensor, noise: Tensor, labels: Tensor | None, weight: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        """Add the gradient of the batch's mean loss, a micro-batch at a time; the losses (b,), plain and weighted."""
        parts, found = self.parts, []
        micro = len(t) // self.plan.accumulate
        for first in range(0, len(t), micro):
            part, last = slice(first, first + micro), first + micro == len(t)
            with nullcontext() if last else parts.gradients_stay_here():
                with parts.device.autocast():
                    chosen = None if labels is None else labels[part]
                    x, share = encode(x_0[part]), self.progress.share
                    losses = parts.loss(parts.denoiser, x, t[part], noise[part], chosen, share)
                weighted = losses * (weight[part] if isinstance(weight, Tensor) else weight)
                (weighted.sum() * (ranks.size() / self.plan.batch_size)).backward()
            found.append((losses.detach(), weighted.detach()))
        losses, weighted = (torch.cat(each) for each in zip(*found, strict=True))
        return losses, weighted

    def skip(self) -> None:
        """Leave the weights as they are, after a loss or gradient that is not finite."""
        self.parts.optimizer.zero_grad(set_to_none=True)
        progress = self.progress
        progress.step, progress.skipped = progress.step + 1, progress.skipped + 1
        progress.skipped_in_a_row += 1
        text = "Step %d is skipped: its loss or gradient is not finite (%d so far)."
        log.warning(text, progress.step - 1, progress.skipped)

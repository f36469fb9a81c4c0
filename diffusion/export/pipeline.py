"""Draw images with this model. This file needs diffusers, torch and numpy, and nothing else.

import torch
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained(FOLDER, trust_remote_code=True)
images = pipe(8, labels="sneaker", guidance_scale=2.0, num_inference_steps=50, seed=0).images
"""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, ModelMixin, SchedulerMixin
from PIL import Image
from torch import Tensor
from torch.nn import functional as F


class SimpleDiffusionPipeline(DiffusionPipeline):
    """Labels and guidance around a network and one of diffusers' schedulers.

    Args:
        unet: (x, time in 0..1000, labels) → the prediction, on images folded by `patch`.
        scheduler: `DDIMScheduler`, or another one that was made from its config.
        settings: images (channels, size [height, width], padding [top, bottom, left, right], class_names), patch,
            no_label (the number that stands for "no label", or None), dropout (the share of labels left out in
            training), steps, and guidance_scale, guidance_interval and guidance_rescale.
    """

    def __init__(self, unet: ModelMixin, scheduler: SchedulerMixin, settings: dict | None = None) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(settings=settings)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        labels: int | str | Sequence[int | str] | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        num_inference_steps: int | None = None,
        seed: int = 0,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        """Draw images.

        Args:
            batch_size: number of images.
            labels: classes by number or name, one or several; the images go round them. None is an even mix of all.
            guidance_scale: 1 is no guidance; one, or one for each class; None is the model's own.
            num_inference_steps: best a divisor of the scheduler's 1000.
            seed: image i depends on (seed, i) and its label alone.
            latents: noise (B, C, H, W) with the padding, instead of that of the seed.
            output_type: "pil"; "np", uint8 (B, H, W, C); or "pt", uint8 (B, C, H, W).
        """
        settings, device = self.config.settings, self._execution_device
        numbers = self.numbers(batch_size, labels)
        x = (self.noise(batch_size, seed) if latents is None else latents).to(device) * self.scheduler.init_noise_sigma
        scale = settings["guidance_scale"] if guidance_scale is None else guidance_scale
        scales = torch.tensor(scale, device=device, dtype=torch.float32)
        self.check(scales)
        scales = scales[numbers].view(-1, 1, 1, 1) if scales.ndim and numbers is not None else scales
        takes = inspect.signature(self.scheduler.step).parameters
        extra = {"use_clipped_model_output": True} if "use_clipped_model_output" in takes else {}  # of DDIM
        self.scheduler.set_timesteps(num_inference_steps or settings["steps"], device=device)
        for step in self.progress_bar(self.scheduler.timesteps):
            alpha, sigma = (level.to(device) for level in self.level(step))
            seen = self.scheduler.scale_model_input(x, step)
            output = self.predict(seen, step, numbers)
            if numbers is not None and bool((scales != 1).any()) and self.inside(alpha, sigma):
                poor = self.predict(seen, step, torch.full_like(numbers, settings["no_label"]))
                output = self.guided(x, output, poor, scales, alpha, sigma)
            x = self.scheduler.step(output, step, x, **extra).prev_sample
        images = self.finished(x, output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def numbers(self, batch_size: int, labels: Any) -> Tensor | None:
        """Labels as numbers (B,), or None for a model without."""
        settings, names = self.config.settings, list(self.config.settings["images"]["class_names"])
        if settings["no_label"] is None:
            if labels is not None:
                raise ValueError("This model takes no labels: leave labels= out.")
            return None
        if labels is None:
            chosen: list[Any] = list(range(len(names)))
        else:
            chosen = list(labels) if isinstance(labels, list | tuple | Tensor | np.ndarray) else [labels]
        lowered = [name.lower() for name in names]
        for k, label in enumerate(chosen):
            if isinstance(label, str) and label.lower() not in lowered:
                raise ValueError(f"labels={label}: there is no such class; choose from {', '.join(names)}.")
            chosen[k] = lowered.index(label.lower()) if isinstance(label, str) else int(label)
        if not all(0 <= number < len(names) for number in chosen):
            raise ValueError(f"labels={chosen}: the labels go from 0 to {len(names) - 1}.")
        return torch.tensor([chosen[i % len(chosen)] for i in range(batch_size)], device=self._execution_device)

    def check(self, scales: Tensor) -> None:
        """Raise `ValueError` where guidance would ask the network for what it never learnt."""
        dropout = None if self.config.settings["no_label"] is None else self.config.settings.get("dropout")
        if dropout == 0 and bool((scales != 1).any()):
            raise ValueError("This model never learnt to go without a label (dropout=0): guidance_scale must be 1.")
        if dropout == 1 and bool((scales != 0).any()):
            raise ValueError("This model was never shown a label (dropout=1): guidance_scale must be 0.")

    def noise(self, batch_size: int, seed: int) -> Tensor:
        """Standard normal (B, C, H, W), each image from a stream of its own, which follows from (seed, its number)."""
        image = self.config.settings["images"]
        height, width = image["size"]
        top, bottom, left, right = image["padding"]
        drawn = []
        for i in range(batch_size):
            state = np.random.SeedSequence((seed, 2, i)).generate_state(1, np.uint64)
            stream = torch.Generator().manual_seed(int(state[0]))
            shape = (image["channels"], height + top + bottom, width + left + right)
            drawn.append(torch.randn(shape, generator=stream))
        return torch.stack(drawn)

    def level(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """α and σ of one of the scheduler's steps."""
        alpha_bar = self.scheduler.alphas_cumprod[int(step)]
        return alpha_bar**0.5, (1 - alpha_bar) ** 0.5

    def inside(self, alpha: Tensor, sigma: Tensor) -> bool:
        """Whether there is guidance at this level."""
        interval = self.config.settings["guidance_interval"]
        return not interval or (bool(interval[0] * alpha < sigma) and bool(sigma <= interval[1] * alpha))

    def predict(self, x: Tensor, step: Tensor, numbers: Tensor | None) -> Tensor:
        """The prediction of the network for x (B, C, H, W)."""
        settings = self.config.settings
        time = (
            1000 * (step.float() + 1) / self.scheduler.config.num_train_timesteps
        )  # step i − 1 here was i in training
        folded = F.pixel_unshuffle(x.to(self.unet.dtype), settings["patch"])
        output = self.unet(folded, time.expand(len(x)), numbers).sample
        return F.pixel_shuffle(output, settings["patch"])[:, : x.shape[1]].to(x.dtype)  # without a learned variance

    def guided(self, x: Tensor, good: Tensor, poor: Tensor, scales: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """poor + scale · (good − poor), for x̂_0 with its contrast brought back by the share `guidance_rescale`."""
        output, rescale = poor + scales * (good - poor), self.config.settings["guidance_rescale"]
        if not rescale:
            return output  # x̂_0 is linear in the prediction
        kind = self.scheduler.config.prediction_type
        skip, out = {  # x̂_0 = skip · x + out · prediction
            "epsilon": (1 / alpha, -sigma / alpha),
            "v_prediction": (alpha, -sigma),
            "sample": (0 * alpha, 1 + 0 * alpha),
        }[kind]
        contrast = [(skip * x + out * each).flatten(1).std(dim=1) for each in (good, output)]
        ratio = (1 + rescale * (contrast[0] / contrast[1].clamp(min=1e-6) - 1)).view(-1, 1, 1, 1)
        return (ratio * (skip * x + out * output) - skip * x) / out

    def finished(self, x: Tensor, output_type: str) -> Any:
        """Images without their padding, in the form that is asked for."""
        top, bottom, left, right = self.config.settings["images"]["padding"]
        x = x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]
        images = x.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).cpu()
        if output_type == "pt":
            return images
        array = images.permute(0, 2, 3, 1).numpy()
        if output_type == "np":
            return array
        return [Image.fromarray(each[:, :, 0] if each.shape[2] == 1 else each) for each in array]

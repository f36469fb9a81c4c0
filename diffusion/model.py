"""A trained model for Python, without configs or scripts.

import diffusion

model = diffusion.load("outputs/train/RUN")
images = model.sample(16, labels="sneaker", steps=20, guidance=2.0)     # uint8 (16, C, H, W)
x_0 = model.denoise(x_t, t=0.5)                                         # x̂_0 in [−1, 1]
model.save("sneakers.safetensors")
model.export("sneakers.onnx", to="onnx", weights="fp16")
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion.config import trained
from diffusion.config.build import build
from diffusion.config.classes import class_numbers
from diffusion.config.opening import opened
from diffusion.config.trust import given as trusted
from diffusion.config.trust import modules as trusted_modules
from diffusion.records import checkpoint
from diffusion.sampler import Sampler
from diffusion.system.device import Device
from diffusion.system.errors import UserError


@contextmanager
def own_defaults() -> Iterator[None]:
    """Meanwhile PyTorch's own defaults: with another dtype or device of the caller's the images would be others."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(before)


def plain(value: Any) -> Any:
    """A number or list of Python's, of one of NumPy or PyTorch; anything else as it is."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray | Tensor) else value


class Model:
    """A trained model. What is wrong is told by `diffusion.system.errors.UserError`, in one sentence.

    The arguments are those of `trained.load_image_model`.
    """

    def __init__(
        self, state: dict[str, Any], device: Device, averaged: bool = True, ema_width: float | None = None
    ) -> None:
        self.state, self.trusted = state, trusted_modules()
        self.path: Path | None = None  # of the checkpoint, whose folder may hold its scores
        self.image_model = trained.load_image_model(state, device, averaged, ema_width)
        self.denoiser, self.config = self.image_model.denoiser, state["config"]
        self.class_names = self.image_model.class_names

    @own_defaults()
    def sample(
        self,
        n: int,
        labels: int | str | Sequence[int | str] | Tensor | None = None,
        steps: int | None = None,
        guidance: float | Sequence[float] | dict[str, Any] | None = None,
        sampler: Sampler | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        progress: bool = False,
    ) -> Tensor:
        """Draw n images; image i depends on (seed, i) and its label alone.

        Args:
            n: number of images.
            labels: classes by name or number, one or several; the images go round them. None is an even mix of all.
            steps: of the run's own sampler; None is its own number.
            guidance: the scale, one or one for each class; or {"scale": …, "interval": …, "rescale": …, …}, the
                settings of `diffusion.guidance.Guided`; None is the run's own.
            sampler: another than the run's own, for example `diffusion.sampler.UniPC(10)`; it has its own steps.
            seed: 0 or more.
            batch_size: images drawn at once; None leaves it to the device. Halved where the memory is too small.
            progress: show a bar.

        Returns:
            uint8 (n, C, H, W) on the CPU.
        """
        if sampler is not None and not isinstance(sampler, Sampler):
            raise UserError(f"sampler={sampler!r} must be a sampler itself, for example diffusion.sampler.UniPC(10).")
        n, steps, seed, batch_size, guidance = map(plain, (n, steps, seed, batch_size, guidance))
        for name, value in (("n", n), ("seed", seed), ("batch_size", batch_size)):
            if not isinstance(value, int) and not (name == "batch_size" and value is None):
                raise UserError(f"{name}={value!r} must be a whole number.")
        if sampler is not None and steps is not None:
            raise UserError(f"steps={steps} belongs to the run's own sampler: give sampler= its own number of steps.")
        given = guidance if isinstance(guidance, dict) else {"scale": guidance}
        given = {name: list(value) if isinstance(value, tuple) else plain(value) for name, value in given.items()}
        with trusted(self.trusted):
            if sampler is None:
                given_steps = {} if steps is None else {"steps": steps}
                sampler = build({**self.config["sampler"], **given_steps}, "sampler")
            trained.set_guidance(self.image_model, self.state, given)
        chosen = class_numbers(plain(labels), self.image_model, "labels", names_first=False)
        numbers = self.image_model.labels(n, chosen)
        at_once = self.image_model.device.images_at_once(batch_size, self.image_model.shape[1:])
        return self.image_model.draw(sampler, n, numbers, seed, at_once, progress=progress)

    @own_defaults()
    @torch.no_grad()
    def denoise(self, x_t: Tensor, t: Tensor | float, labels: Tensor | None = None) -> Tensor:
        """The estimate x̂_0 of noisy images, without guidance.

        Args:
            x_t: α(t) x_0 + σ(t) ε, (B, C, H, W), with the padding of the data; see `noise_level`.
            t: times in (0, 1], (B,), or one for all.
            labels: classes (B,), or None for "no label"; the number of classes stands for it, too.

        Returns:
            (B, C, H, W) on the device of the model.
        """
        place, shape, classes = self.image_model.device.torch_device, self.image_model.shape, self.denoiser.num_classes
        if x_t.ndim != 4 or x_t.shape[1:] != shape:
            raise UserError(
                f"x_t has the shape {tuple(x_t.shape)}, but this model takes (B, {', '.join(map(str, shape))})."
            )
        if labels is not None and not (len(labels) == len(x_t) and bool(((labels >= 0) & (labels <= classes)).all())):
            raise UserError(f"labels must be {len(x_t)} numbers from 0 to {classes} (no label).")
        times = torch.as_tensor(t, dtype=torch.float32, device=place)
        if times.numel() not in (1, len(x_t)) or not bool(((times > 0) & (times <= 1)).all()):
            raise UserError(f"t must be one time in (0, 1], or {len(x_t)} of them.")
        with self.image_model.device.autocast():
            x = x_t.to(place, torch.float32)
            return self.denoiser(x, times.flatten().expand(len(x)), None if labels is None else labels.to(place))

    def noise_level(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """α and σ at times t in [0, 1]."""
        return self.denoiser.schedule(torch.as_tensor(t, dtype=torch.float32))

    def save(self, path: str | Path) -> None:
        """Write the weights as one .safetensors file with the config in its metadata; `load` reads it back."""
        checkpoint.save_model(Path(path), self.state, self.denoiser.network.state_dict())

    @own_defaults()
    def export(self, path: str | Path, to: str, weights: str | None = None) -> Path:
        """Write the model for programs without this package; docs/export.md shows how each form is used.

        Args:
            path: of the file, or of the folder for "diffusers".
            to: "onnx", the denoiser as one graph; "diffusers", a folder for its `from_pretrained`; "safetensors", what
                `save` writes; "page", one HTML file that draws.
            weights: "fp32", "fp16" or "int8", in which they are stored; None is "int8" for a page, and "fp32" else.

        Returns:
            the path.
        """
        from diffusion.export.formats import export  # here, because few who load a model export it

        with trusted(self.trusted):
            return export(self, Path(path), to, weights)


@own_defaults()
def load(
    path: str | Path,
    device: str = "auto",
    averaged: bool = True,
    ema_width: float | None = None,
    trust: str | Sequence[str] = (),
    **settings: Any,
) -> Model:
    """A trained model.

    Args:
        path: a run folder, a checkpoint, a .safetensors file that `Model.save` wrote, or "latest".
        device: "auto", "cpu", "cuda" or "mps".
        averaged: use the averaged (EMA) weights.
        ema_width: width of the average, for runs with ema=power; None is the run's own.
        trust: modules of your own whose classes the model may name, for example ["my_parts"].
        settings: further ones of `diffusion.system.device.Device`: index, precision, compile, threads, …
    """
    with trusted(list(trust) if not isinstance(trust, str) else trust):
        file = checkpoint.find(str(path))
        state = opened(file)
        place = build({"_target_": "diffusion.system.device.Device", "type": device, **settings}, "device")
        model = Model(state, place, averaged, ema_width)
        model.path = file
        return model

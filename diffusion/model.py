"""A trained model for Python: trained here, or read from a file; and scores of it, or of any images.

import diffusion

model = diffusion.train("model.width=32")                               # or diffusion.load("outputs/train/RUN")
images = model.sample(16, labels="sneaker", steps=20, guidance=2.0)     # uint8 (16, C, H, W)
x_0 = model.denoise(x_t, t=0.5)                                         # x̂_0 in [−1, 1]
scores = diffusion.evaluate(model, n=1000)                              # or of images; scores["fid"]
model.save("sneakers.safetensors")
model.export("sneakers.onnx", to="onnx", weights="fp16")
"""

import copy
import html
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion.config import trained
from diffusion.config.build import build
from diffusion.config.classes import class_numbers
from diffusion.config.composing import Settings, first_of
from diffusion.config.describing import described
from diffusion.config.opening import opened
from diffusion.config.trust import given as trusted
from diffusion.config.trust import modules as trusted_modules
from diffusion.evaluation.score_table import ScoreTable
from diffusion.records import checkpoint
from diffusion.records.results import read_metrics
from diffusion.sampler import Sampler
from diffusion.system.device import Device
from diffusion.system.errors import UserError


@contextmanager
def own_defaults() -> Iterator[None]:
    """Meanwhile PyTorch's own defaults: with another dtype or device of the caller's the images would be others."""
    before, elsewhere = torch.get_default_dtype(), torch.get_default_device().type != "cpu"
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu") if elsewhere else nullcontext():  # which every call of PyTorch would pass through
            yield
    finally:
        torch.set_default_dtype(before)


def plain(value: Any) -> Any:
    """A number or list of Python's, of one of NumPy or PyTorch; anything else as it is."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray | Tensor) else value


class Model:
    """A trained model. What is wrong is told by `diffusion.system.errors.UserError`, in one sentence.

    The arguments are those of `trained.load_image_model`, and where the model comes from.

    Attributes:
        scores: what its run scored at the end, where the folder says so; else None.
    """

    def __init__(
        self,
        state: dict[str, Any],
        device: Device,
        averaged: bool = True,
        ema_width: float | None = None,
        source: str = "model",
    ) -> None:
        self.state, self.trusted, self.source = state, trusted_modules(), source
        self.averaged, self.ema_width = averaged, ema_width
        self.scores: ScoreTable | None = None
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
            drawing = copy.copy(self.image_model)  # guided so this once
            trained.set_guidance(drawing, self.state, given)
        numbers = drawing.labels(n, class_numbers(plain(labels), drawing, "labels", names_first=False))
        at_once = drawing.device.images_at_once(batch_size, drawing.shape[1:])
        images = drawing.draw(sampler, n, numbers, seed, at_once, progress=progress)
        self.image_model.evaluations = drawing.evaluations
        return images

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

    def describe(self) -> dict[str, str]:
        """What it is, line by line."""
        with trusted(self.trusted):
            sampler = build(self.config["sampler"], "sampler")
        weights = trained.weights_in_words(self.averaged, self.ema_width)
        return described(self.state, self.image_model, sampler, weights)

    def __repr__(self) -> str:
        lines = [f"{name:<12}  {text}" for name, text in self.describe().items()]
        return "\n".join([f"Model of {self.source}", *lines, *([] if self.scores is None else ["", repr(self.scores)])])

    def _repr_html_(self) -> str:
        lines = ((html.escape(name), html.escape(text)) for name, text in self.describe().items())
        rows = "".join(f"<tr><th>{name}</th><td>{text}</td></tr>" for name, text in lines)
        scores = "" if self.scores is None else self.scores._repr_html_()
        return f"<b>Model of {html.escape(self.source)}</b><table>{rows}</table>{scores}"


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
        path, state = file.parent if str(path) == "latest" else path, opened(file)
        place = build({"_target_": "diffusion.system.device.Device", "type": device, **settings}, "device")
        model = Model(state, place, averaged, ema_width, str(path))
        metrics = read_metrics(file.with_name("metrics.json")) if averaged and ema_width is None else None
        model.scores = ScoreTable.of_run(metrics, state["step"])
        return model


@own_defaults()
def train(
    config: Settings | str | Sequence[str] = (), folder: str | Path | None = None, progress: bool = True
) -> Model:
    """Train a model, as `python train.py` does of the same settings: the same folder, messages and weights.

    A run that was stopped in this folder is gone on with; one that is finished there is read.

    Args:
        config: from `diffusion.compose`, or the words for it: "experiment=ema", ["experiment=ema", "model.width=32"];
            without any, the quickstart.
        folder: of the run; None is a new one under outputs/train.
        progress: show a bar, and what train.py says.

    Raises:
        UserError: a setting is wrong, in one sentence.
    """
    from diffusion.config import from_python  # here: who draws from a model needs nothing of this

    config, place = from_python.train(config, folder, progress)
    return load(place, **from_python.loading(config) | {"threads": None})  # the training's; the caller has others


@own_defaults()
def evaluate(
    what: Any,
    *overrides: str,
    labels: Any = None,
    folder: str | Path | None = None,
    progress: bool = True,
    **settings: Any,
) -> ScoreTable:
    """Scores of a model or of images, each beside that of real images, as `python evaluate.py` finds them.

    Args:
        what: a `Model`, or what `load` takes for one; or images, uint8 (N, C, H, W), (N, H, W, C) or (N, H, W).
        overrides, settings: of evaluate.py, as n=10000, seed=1, steps=20, guidance=2.0, or as there, "sampler=ddim";
            for images, data="mnist" says what they imitate; trust, device, averaged, ema_width of a path load it.
        labels: of images, the classes (N,) that they were made for.
        folder: for the report, its pictures and samples; None writes nothing.
        progress: show bars, and what evaluate.py says.

    Raises:
        UserError: a setting is wrong, or the images are not like the data.
    """
    from diffusion.config import from_python
    from diffusion.config.whole_evaluation import Given

    words = from_python.words_of(overrides, settings)
    if taken := first_of(words, "checkpoint samples output_dir"):
        raise UserError(
            f"{taken} cannot be given here: the first argument is what is scored, folder= takes the report."
        )
    if isinstance(what, str | Path):
        words, loading = from_python.of_loading(words)
        what = load(what, **loading)
    if not isinstance(what, Model):
        return ScoreTable(from_python.evaluate(from_python.images(what, labels), words, folder, progress))
    if labels is not None:
        raise UserError("labels= are of images: a model draws an even mix of all its classes.")
    if loaded := first_of(words, "averaged ema_width device"):
        raise UserError(f"{loaded} is settled when a model is loaded: give it to diffusion.load.")
    words += [f"checkpoint={what.source}", f"averaged={str(what.averaged).lower()}"]
    words += [] if what.ema_width is None else [f"ema_width={what.ema_width}"]
    with trusted(what.trusted):
        return ScoreTable(from_python.evaluate(Given(copy.copy(what.image_model), what.state), words, folder, progress))

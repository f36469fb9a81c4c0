"""to=diffusers: a folder that `DiffusionPipeline.from_pretrained` loads without this package.

    README.md                       the model card
    model_index.json                what is what, and how the run draws
    pipeline.py                     labels and guidance (`diffusion.export.pipeline`)
    scheduler/                      a `DDIMScheduler` with the noise levels of the run
    unet/config.json, …safetensors  a stock `UNet2DModel` where the network is one; else unet/network.py is beside them,
                                    the source of ours

Steps of such a scheduler are numbered 0 … T − 1, so its step i − 1 is i in training, at t = i/T.
"""

import ast
import inspect
import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from diffusion.config.resuming import filled
from diffusion.denoiser import Denoiser
from diffusion.export import card, unet_2d
from diffusion.export.facts import facts, on_cpu
from diffusion.export.trained import Trained
from diffusion.networks import layers
from diffusion.objective import X0, Epsilon, V
from diffusion.sampler import DDIM
from diffusion.schedule import Cosine, DiscreteSchedule, Linear
from diffusion.system.errors import NotWritten, UserError, brief

log = logging.getLogger("diffusion")
VERSION = "0.30.0"  # of diffusers, whose form this is
PREDICTION = {Epsilon: "epsilon", V: "v_prediction", X0: "sample"}
PIPELINE = ["pipeline", "SimpleDiffusionPipeline"]  # the file and the class in it, as model_index.json has them
CONSISTENCY = "diffusion.loss.consistency.Consistency"  # such a model draws in one to four steps of another kind
STEPS = 50  # where the run draws by another sampler than DDIM
# What makes a network of ours one of diffusers' models; it is called as `UNet2DModel` is.
WRAPPER = '''

class Network(ModelMixin, ConfigMixin):
    """The network of this model; `settings` are the arguments of {name}."""

    @register_to_config
    def __init__(self, settings: dict) -> None:
        super().__init__()
        self.network = {name}(**settings)

    def forward(self, sample: Tensor, timestep: Tensor, class_labels: Tensor | None = None) -> UNet2DOutput:
        return UNet2DOutput(sample=self.network(sample, timestep, class_labels))
'''
IMPORTS = """from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput
"""


def export_diffusers(model: Trained, path: Path, weights: str = "fp32") -> None:
    """Write a model as a folder for diffusers; weights are fp32.

    Raises:
        UserError: diffusers has no scheduler for this model, or the folder holds something else.
    """
    denoiser, known = on_cpu(model.denoiser), facts(model)
    check(model, known)
    if not free(path):
        raise UserError(f"path={path} holds something else already: give a new folder.")
    settings = unet_2d.settings_of(model, filled(model.config["model"], "model"))
    reason = unet_2d.why_not(denoiser.network, settings)
    state = dict(denoiser.network.state_dict())
    if reason is None:
        unet, state, code = unet_2d.config(settings), unet_2d.weights(state, settings), None
    else:
        log.info("The folder brings the network's own code: %s.", reason)
        name = type(denoiser.network).__name__
        unet = {"_class_name": "Network", "_diffusers_version": VERSION, "settings": settings}
        state, code = {f"network.{key}": value for key, value in state.items()}, source_of(type(denoiser.network), name)
    texts = {
        "README.md": card.text(model, known, stock=reason is None),
        "model_index.json": in_json(index(model, known, settings, stock=reason is None)),
        "pipeline.py": (Path(__file__).parent / "pipeline.py").read_text(encoding="utf-8"),
        "scheduler/scheduler_config.json": in_json(scheduler(denoiser, known["clip"])),
        "unet/config.json": in_json(unet),
        **({"unet/network.py": code} if code else {}),
    }
    try:
        for name, text in texts.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(text, encoding="utf-8")
        if not code:
            (path / "unet" / "network.py").unlink(missing_ok=True)
        tensors = {key: value.contiguous() for key, value in state.items()}
        save_file(tensors, path / "unet" / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise NotWritten(f"The folder {path} could not be written ({brief(error)}).") from error


def free(path: Path) -> bool:
    """Whether a folder may be written: it is new, empty, or one that `export_diffusers` wrote.

    Raises:
        NotWritten: the system does not let it be known.
    """
    try:
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            return True
        found = json.loads((path / "model_index.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, RecursionError, ValueError):  # no such file, or no JSON
        return False
    except OSError as error:  # a name that is too long, or no permission
        raise NotWritten(f"The folder {path} could not be written ({brief(error)}).") from error
    return isinstance(found, dict) and found.get("_class_name") == PIPELINE


def check(model: Trained, known: Mapping[str, Any]) -> None:
    """Raise `UserError` for a model that none of diffusers' schedulers can draw with."""
    wrong, denoiser = None, model.denoiser
    if (model.config.get("loss") or {}).get("_target_") == CONSISTENCY:
        wrong = "loss=consistency"
    elif not isinstance(denoiser.schedule, DiscreteSchedule):
        wrong = denoiser.schedule.described
    elif type(denoiser.objective) not in PREDICTION:
        wrong = f"objective={denoiser.objective.name}"
    elif known["guidance_plus_plus"]:
        wrong = "guidance.plus_plus=true (CFG++)"
    elif not type(denoiser.network).__module__.startswith("diffusion.networks."):
        wrong = f"model._target_={type(denoiser.network).__module__}.{type(denoiser.network).__name__}"
    if wrong:
        raise UserError(
            f"{wrong} cannot be exported to=diffusers, whose pipelines know no such thing: choose to=onnx, which holds "
            "all that the model needs, or to=safetensors."
        )


def index(model: Trained, known: Mapping[str, Any], settings: Mapping[str, Any], stock: bool) -> dict[str, Any]:
    """The content of model_index.json."""
    sampler = model.config["sampler"]
    own_steps = str(sampler["_target_"]).rpartition(".")[2] == DDIM.__name__
    named = ("images", "no_label", "dropout", "guidance_scale", "guidance_interval", "guidance_rescale")
    return {
        "_class_name": PIPELINE,
        "_diffusers_version": VERSION,
        "unet": ["diffusers", "UNet2DModel"] if stock else ["network", "Network"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "settings": {
            **{name: known[name] for name in named},
            "patch": settings["patch"] if stock else 1,
            "steps": sampler.get("steps", STEPS) if own_steps else STEPS,
        },
    }


def scheduler(denoiser: Denoiser, clip: float | None) -> dict[str, Any]:
    """The content of scheduler_config.json: a `DDIMScheduler` with the noise levels and the target of the model; x̂_0
    is clamped to ±clip."""
    schedule = denoiser.schedule
    levels: dict[str, Any] = {}
    if type(schedule) is Linear and not schedule.zero_terminal_snr:
        start, end = schedule.ends()
        levels = {"beta_schedule": "linear", "beta_start": start, "beta_end": end}
    elif type(schedule) is Cosine and not schedule.zero_terminal_snr:
        levels = {"beta_schedule": "squaredcos_cap_v2"}
    else:
        alpha, _ = schedule(torch.arange(schedule.steps + 1, dtype=torch.float64) / schedule.steps)
        levels = {"trained_betas": (1 - (alpha[1:] / alpha[:-1]) ** 2).tolist()}
    return {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": VERSION,
        "num_train_timesteps": schedule.steps,
        **levels,
        "prediction_type": PREDICTION[type(denoiser.objective)],
        "clip_sample": clip is not None,
        "clip_sample_range": clip or 1.0,
        "set_alpha_to_one": True,
        "steps_offset": 0,
        "timestep_spacing": "trailing",
        "thresholding": False,
        "rescale_betas_zero_snr": False,
    }


def source_of(network: type, name: str) -> str:
    """The code of a network of ours as one file that imports nothing of this package."""
    parts = [without_ours(inspect.getsource(module)) for module in (layers, sys.modules[network.__module__])]
    return IMPORTS + "\n".join(parts) + WRAPPER.format(name=name)


def without_ours(source: str) -> str:
    """The source of a module without what it imports of this package."""
    lines = source.splitlines()
    for node in reversed(ast.parse(source).body):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("diffusion."):
            del lines[node.lineno - 1 : node.end_lineno]
    return "\n".join(lines) + "\n"


def in_json(content: Mapping[str, Any]) -> str:
    """JSON as such folders have it."""
    return json.dumps(content, indent=2) + "\n"

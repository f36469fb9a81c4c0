"""A page that draws: one HTML file with a model inside, which needs no server, no network and no other file.

The network is evaluated by a small kernel of WebAssembly (page_parts/kernel.wat) and JavaScript beside it. What the
page must know is made here: weights in few bytes, and a table of the noise levels, so that it works with any schedule
and objective. docs/page.md says how it works.
"""

import base64
import gzip
import html
import json
from pathlib import Path
from string import Template
from typing import Any

from safetensors.numpy import save as safetensors

from diffusion.drawing.image_model import ImageModel
from diffusion.export.page_model import description, network_of, own_sampler, tables
from diffusion.export.page_weights import stored
from diffusion.export.trained import Trained
from diffusion.system.errors import NotWritten, brief
from diffusion.system.files import replacing

PARTS = Path(__file__).parent / "page_parts"
ENGINE = ("kernel.js", "network.js", "samplers.js", "random.js", "model_file.js", "engine.js")  # run in a worker
SCRIPT = ("stage.js", "start.js", "page.js")  # run in the page
DATA = {"mnist": "MNIST", "kmnist": "KMNIST", "cifar10": "CIFAR-10", "fashion_mnist": "Fashion-MNIST"}


def export_page(model: Trained, path: Path, weights: str = "int8") -> None:
    """Write a page that draws with a model.

    Args:
        model: a trained model whose network is a `diffusion.networks.unet.UNet`.
        path: the file to write.
        weights: how they are stored: "fp32", "fp16" or "int8".

    Raises:
        UserError: the model cannot be exported so.
        NotWritten: the file cannot be written.
    """
    path = Path(path)
    text = page(model.image_model, model.config, weights)
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: \0 in its name
        raise NotWritten(f"The page {path} could not be written ({brief(error)}).") from error


def page(image_model: ImageModel, config: dict[str, Any], weights: str) -> str:
    """The page as text.

    Args:
        image_model: what draws in Python.
        config: of the run; its nodes "sampler", "data", "schedule" and "objective" are read.
        weights: as in `export_page`.
    """
    network, own = network_of(image_model.denoiser), own_sampler(config.get("sampler", {}))
    about = description(image_model, own)
    tensors = {**stored(network.state_dict(), weights), **tables(image_model.denoiser, own)}
    count = sum(parameter.numel() for parameter in network.parameters())
    height, width = about["image"]["size"]
    channels = {1: "grey pixels", 3: "coloured pixels"}.get(about["image"]["channels"], "pixels")
    kinds = (
        str(config.get(name, {}).get("_target_", "")).rpartition(".")[2].lower() for name in ("schedule", "objective")
    )
    details = f"{height} × {width} {channels}; {count:,} weights as {weights}; schedule {{}}, objective {{}}".format(
        *kinds
    )
    parts = {
        "title": f"{title(config)}, drawn from noise",
        "details": f"{details}. Made with Simple Diffusion.",
    }
    return Template(read("page.html")).substitute(
        {name: html.escape(text) for name, text in parts.items()},
        css=read("page.css"),
        about=json.dumps(about).replace("<", "\\u003c"),  # so that no name can end the script that holds it
        kernel=in_base64((PARTS / "kernel.wasm").read_bytes()),
        model=in_base64(gzip.compress(safetensors(tensors), mtime=0)),
        engine="".join(map(read, ENGINE)),
        script="".join(map(read, SCRIPT)),
    )


def read(name: str) -> str:
    """A part of the page."""
    return (PARTS / name).read_text(encoding="utf-8")


def in_base64(data: bytes) -> str:
    """Bytes as text."""
    return base64.b64encode(data).decode("ascii")


def title(config: dict[str, Any]) -> str:
    """What the images are: the name of their data set, where it is a known one."""
    name = str(config.get("data", {}).get("_target_", "")).rpartition(".")[2].removesuffix("_mini")
    return DATA.get(name, "Images")

"""to=onnx: the whole denoiser, with its schedule inside, as one graph for any batch size,

    x_t (B, C, H, W), t (B,) in (0, 1], labels (B,) → x_0 (B, C, H, W),

and with what a sampler must know as JSON in the metadata "simple_diffusion" (see `diffusion.export.facts`). Samplers
stay outside: docs/export.md has one of a few lines. A model without labels has no input of that name.
"""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from diffusion.denoiser import Denoiser
from diffusion.export.facts import facts, on_cpu
from diffusion.export.trained import Trained
from diffusion.system.errors import NotWritten, UserError, brief
from diffusion.system.files import replacing

OPSET = 20
LARGEST = 2**31 - 2**24  # bytes; protobuf ends at 2 GiB
TRACED = 2  # images in the batch that is traced


def export_onnx(model: Trained, path: Path, weights: str = "fp32") -> None:
    """Write a model as an ONNX file.

    Args:
        model: to be written.
        path: of the file.
        weights: how they are stored, "fp32", "fp16" or "int8"; computed is in fp32 in any case.

    Raises:
        UserError: a package is missing, or this network cannot be traced.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  which torch.onnx asks for
    except ImportError as error:
        raise UserError(
            f'to=onnx needs the package {error.name}: pip install "onnx>=1.17" "onnxscript>=0.5", or in a checkout '
            'pip install -e ".[onnx]".'
        ) from error
    from diffusion.export import onnx_weights

    denoiser = on_cpu(model.denoiser)
    size = 4 * sum(value.numel() for value in denoiser.parameters())
    if size > LARGEST:
        raise UserError(f"to=onnx: the weights take {size / 2**30:.1f} GiB, and such a file ends at 2: to=safetensors.")
    graph = traced(denoiser, model.image_model.shape)
    onnx_weights.forget_the_machine(graph)
    onnx_weights.store(graph.graph, weights)
    onnx.checker.check_model(graph)
    onnx.helper.set_model_props(graph, {"simple_diffusion": json.dumps(facts(model))})
    try:
        with replacing(path) as temporary:
            onnx.save(graph, str(temporary))
    except (OSError, ValueError) as error:  # ValueError: \0 in its name
        raise NotWritten(f"The file {path} could not be written ({brief(error)}).") from error


def traced(denoiser: Denoiser, shape: tuple[int, int, int]) -> Any:
    """The denoiser as `onnx.ModelProto`.

    Args:
        denoiser: on the CPU.
        shape: (C, H, W) of its images.
    """
    inputs: dict[str, torch.Tensor] = {"x_t": torch.zeros(TRACED, *shape), "t": torch.full((TRACED,), 0.5)}
    if denoiser.num_classes:
        inputs["labels"] = torch.tensor([0, denoiser.num_classes])
    batch = torch.export.Dim("batch")
    with quiet():
        try:
            program = torch.onnx.export(
                denoiser,
                tuple(inputs.values()),
                input_names=list(inputs),
                output_names=["x_0"],
                dynamic_shapes=tuple({0: batch} for _ in inputs),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
        except Exception as error:  # of many kinds, for a network of the user's own
            raise UserError(
                f"to=onnx: torch.onnx cannot trace {type(denoiser.network).__name__} ({brief(error)}): choose "
                "to=safetensors."
            ) from error
    assert program is not None
    return program.model_proto


@contextmanager
def quiet() -> Iterator[None]:
    """Meanwhile no warning and no note of the exporter's, which speak of its own code."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)

"""What a model weighs in each form, how exact it is, and what it draws. Writes the table of docs/export.md.

    python benchmarks/exports.py --checkpoint RUN               some ten minutes on one core
    python benchmarks/exports.py --checkpoint RUN --n 100

Every ONNX file draws the same n images by the sampler of the run, from the same noise, and is scored as the model is.
"""

import argparse
import gzip
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from common import ROOT, fill
from machine import name_of
from torch import Tensor

import diffusion
from diffusion.config import build
from diffusion.data.images import Images
from diffusion.denoiser import Estimate, Estimator
from diffusion.drawing.image_model import ImageModel
from diffusion.evaluation.document import markdown_table
from diffusion.export.formats import FORMATS, size_of
from diffusion.model import Model
from diffusion.records.results import write_json

PAGE = ROOT / "docs" / "export.md"
BATCH = 50


class Session(Estimator):
    """An ONNX file in the place of the denoiser that it was made of."""

    def __init__(self, path: Path, model: Model) -> None:
        import onnxruntime

        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.disable_quant_qdq", "1")  # int8 is computed in fp32
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.schedule, self.num_classes = model.denoiser.schedule, model.denoiser.num_classes
        self.margin = model.denoiser.margin
        self.needs_signal = model.denoiser.needs_signal

    def estimate(self, x_t: Tensor, t: Any, labels: Tensor | None = None) -> Estimate:
        times = np.full(len(x_t), t, np.float32) if isinstance(t, float) else t.numpy()
        given = {"x_t": x_t.numpy(), "t": times}
        if self.num_classes:
            labels = torch.full((len(x_t),), self.num_classes) if labels is None else labels
            given["labels"] = labels.numpy()
        return Estimate(torch.from_numpy(self.session.run(["x_0"], given)[0]))


def milliseconds(call: Callable[[], Any], rounds: int = 15) -> float:
    """The median time of a call."""
    call()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
    return median(times)


def drawn(model: Model, denoiser: Estimator, n: int) -> Images:
    """n images as the run draws them, with another denoiser in the place of the model's."""
    image_model = model.image_model
    sampler = build.build(model.config["sampler"], "sampler")
    with_it = ImageModel(denoiser, image_model.guidance, image_model.device, image_model.image)  # type: ignore[arg-type]
    labels = image_model.labels(n)
    return Images(with_it.draw(sampler, n, labels, 0, BATCH), labels)


def compared(model: Model, denoiser: Estimator, n: int, reference: Images | None, scorer: Any) -> dict[str, Any]:
    """Of one denoiser: images, FID, times, and how far its answers and images are from the model's."""
    generator = torch.Generator().manual_seed(0)
    x_t, t = torch.randn(16, *model.image_model.shape, generator=generator), torch.linspace(0.1, 1, 16)
    labels = torch.arange(16) % max(model.denoiser.num_classes, 1) if model.denoiser.num_classes else None
    with torch.no_grad():
        error = denoiser(x_t, t, labels) - model.denoiser(x_t, t, labels)
        one = None if labels is None else labels[:1]
        found: dict[str, Any] = {
            "error": float(error.square().mean().sqrt()),
            "ms_1": milliseconds(lambda: denoiser(x_t[:1], t[:1], one)),
            "ms_16": milliseconds(lambda: denoiser(x_t, t, labels)),
        }
    images = drawn(model, denoiser, n)
    found["fid"] = scorer.score(images, "exports")["fid"]
    if reference is not None:
        levels = (images.images.int() - reference.images.int()).abs()
        found["levels"], found["share"] = int(levels.max()), float((levels > 1).float().mean())
    return {**found, "images": images}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / "benchmarks" / "exports")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = diffusion.load(given.checkpoint, device="cpu", precision="fp32")
    scorer = build.build_scorer(model.config["features"], build.data_of(model.state), model.image_model.device)
    found = {"PyTorch": compared(model, model.denoiser, given.n, None, scorer)}
    rows, reference = [row("PyTorch", found["PyTorch"])], found["PyTorch"]["images"]
    for to, form in FORMATS.items():
        for weights in form.weights:
            path, start = given.folder / weights / form.name, time.perf_counter()
            try:
                model.export(path, to=to, weights=weights)
            except ModuleNotFoundError:
                continue
            name = f"`to={to}{f' weights={weights}' if len(form.weights) > 1 else ''}`"
            facts: dict[str, Any] = {"seconds": time.perf_counter() - start, "bytes": size_of(path)}
            if path.is_file():
                facts["packed"] = len(gzip.compress(path.read_bytes()))
            if to == "onnx":
                facts |= compared(model, Session(path, model), given.n, reference, scorer)
            found[name] = facts
            rows.append(row(name, facts))
            print(rows[-1], flush=True)
    heads = ["form", "seconds to write", "MB (gzip)", "rms error of x̂_0", "grey levels off, at most (share above 1)"]
    table = markdown_table([*heads, f"FID, n = {given.n:,}", "ms for 1 image", "for 16"], rows)
    about = f"{name_of(torch.device('cpu'))}, {given.threads} CPU thread, PyTorch {torch.__version__}."
    for facts in found.values():
        facts.pop("images", None)
    write_json(given.folder / "exports.json", found)
    print(table)
    if not fill(PAGE, "exports", "benchmarks/exports.py", f"{about}\n\n{table}"):
        print(f"{PAGE.relative_to(ROOT)} has no place for this table.")


def row(name: str, facts: dict[str, Any]) -> list[str]:
    """The cells of one form."""
    size = f"{facts['bytes'] / 1e6:.2f}" if "bytes" in facts else "–"
    size += f" ({facts['packed'] / 1e6:.2f})" if "packed" in facts else ""
    off = f"{facts['levels']} ({100 * facts['share']:.2f} %)" if "levels" in facts else "–"
    numbers = [f"{facts[key]:{form}}" if key in facts else "–" for key, form in SHOWN.items()]
    seconds, error, fid, one, many = numbers
    return [name, seconds, size, error, off, fid, one, many]


SHOWN = {"seconds": ".1f", "error": ".1e", "fid": ".3f", "ms_1": ".1f", "ms_16": ".0f"}


if __name__ == "__main__":
    main()

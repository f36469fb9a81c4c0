"""What larger images cost: training speed and memory at 28 to 128 pixels in colour. Writes a table of docs/your_own.md.

    python benchmarks/sizes.py                              some ten minutes on two cores, for three rounds
    python benchmarks/sizes.py --models unet_light --sizes 28 64 --rounds 1
    python benchmarks/sizes.py --device cuda --models unet_light unet_base

Training is that of `train.py data=image_folder data.image_size=SIDE data.padding=auto model=MODEL`, in batches of 64,
on files of noise: what is on the images makes no difference to what they cost.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from common import ROOT, fill, middle, read, run
from machine import name_of
from PIL import Image
from throughput import measure

from diffusion.evaluation.document import markdown_table
from diffusion.records.results import write_json

PAGE = ROOT / "docs" / "your_own.md"
MODELS = ("unet_light", "unet_small", "dit_small")
SIZES = (28, 32, 64, 96, 128)
BATCH = 64


def make_images(folder: Path, n: int = 2 * BATCH) -> Path:
    """A folder of colour noise, of the largest size."""
    numbers = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        pixels = numbers.integers(0, 256, (max(SIZES), max(SIZES), 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def words(folder: Path, model: str, size: int) -> list[str]:
    """What train.py is told."""
    data = ["data=image_folder", f"data.root={folder}", f"data.image_size={size}", "data.padding=auto"]
    return [*data, f"model={model}", f"training.batch_size={BATCH}"]


def table(found: dict[str, dict[int, list[dict[str, Any]]]], machine: str) -> str:
    """Medians over the rounds in Markdown: a row for each size, speed and memory of each model."""
    heads, sizes = ["pixels"], sorted({size for records in found.values() for size in records})
    rows = [[f"{size}×{size}"] for size in sizes]
    for model, records in found.items():
        heads += [f"`{model}`: images/s", "memory"]
        for row, size in zip(rows, sizes, strict=True):
            speeds = [record["training_images_per_second"] for record in records[size]]
            memory = median(record["peak_memory_mib"] for record in records[size])
            row += [middle(speeds), f"{memory:,.0f} MiB"]
    return f"{machine}\n\n{markdown_table(heads, rows)}"


def rounds(models: Sequence[str], sizes: Sequence[int], number: int, seconds: float, device: str, folder: Path) -> Any:
    """Model → size → its records, each of a process of its own; every round goes through all of them."""
    images = make_images(folder / "images")
    found: dict[str, dict[int, list[dict[str, Any]]]] = {model: {size: [] for size in sizes} for model in models}
    for turn in range(number):
        for model in models:
            for size in sizes:
                result = folder / f"{model}_{size}.json"
                told = ["--measure", *words(images, model, size), "--result", str(result), "--seconds", str(seconds)]
                run("benchmarks/sizes.py", *told, "--device", device, log=folder / "sizes.log")
                found[model][size].append(read(result))
        print(f"round {turn + 1} of {number} done", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of training in each measurement")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / "benchmarks" / "sizes")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    device = torch.device(given.device)
    if given.measure:
        write_json(given.result, measure(given.measure, device, given.seconds))
        return
    folder = given.folder.resolve()
    found = rounds(given.models, given.sizes, given.rounds, given.seconds, given.device, folder)
    threads = f", {torch.get_num_threads()} CPU threads" if device.type == "cpu" else ""
    memory = "what tensors took at most" if device.type == "cuda" else "that of the whole process, Python with it"
    about = f"{name_of(device)}{threads}, PyTorch {torch.__version__}; batches of {BATCH}, medians of {given.rounds}"
    text = table(found, f"{about}; memory is {memory}.")
    print(text)
    write_json(folder / "sizes.json", found)
    if not fill(PAGE, f"sizes{'_cuda' if device.type == 'cuda' else ''}", "benchmarks/sizes.py", text):
        print(f"{PAGE.relative_to(ROOT)} has no place for this table.")


if __name__ == "__main__":
    main()

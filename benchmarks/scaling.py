"""How cost grows: training with batch size, image size and width, scoring with n. Writes a table and docs/scaling.png.

    python benchmarks/scaling.py                      about ten minutes on two cores, for three rounds
    python benchmarks/scaling.py --only width n       some of it

Training is that of `train.py` with one setting changed. Scoring is `evaluate.py samples=…` of n real training images,
the whole command with the start of Python; the statistics of the real images are kept from its first run.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import PAGE, ROOT, fill, middle, read, run
from machine import highest_memory, name_of
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from throughput import measure

from diffusion.data.datasets import fashion_mnist
from diffusion.drawing.pictures import save_samples
from diffusion.evaluation.document import markdown_table
from diffusion.evaluation.plots import save_figure
from diffusion.records.results import write_json

AXES: dict[str, tuple[str, str, tuple[int, ...]]] = {  # name → what changes, the setting, its values
    "batch": ("batch size", "training.batch_size={}", (4, 16, 64, 256)),
    "size": ("image size", "data.padding={}", (0, 6, 14, 22)),
    "width": ("width", "model.width={}", (16, 32, 64, 128)),
}
COUNTS = (500, 1000, 2000, 5000, 10_000)
PICTURE = ROOT / "docs" / "scaling.png"


def label(axis: str, value: int) -> int:
    """What a table calls a value: images of 28 pixels are padded on both sides."""
    return 28 + 2 * value if axis == "size" else value


def train_point(axis: str, value: int, seconds: float, device: str, folder: Path) -> dict[str, Any]:
    """One training speed, in a process of its own."""
    result = folder / f"{axis}_{value}.json"
    words = ["--measure", AXES[axis][1].format(value), "--result", str(result), "--seconds", str(seconds)]
    run("benchmarks/scaling.py", *words, "--device", device, log=folder / "scaling.log")
    return read(result)


def score_point(n: int, device: str, folder: Path) -> dict[str, Any]:
    """Seconds and peak memory of scoring n images by the command line."""
    samples = folder / f"images_{n}.npz"
    if not samples.exists():
        images, labels = fashion_mnist("data/fashion_mnist").train.select(torch.arange(n))
        save_samples(samples, images, labels)
    words = [f"samples={samples}", "data=fashion_mnist", f"device={device}", f"hydra.run.dir={folder / 'score'}"]
    start, peak = time.perf_counter(), 0.0
    with (folder / "scaling.log").open("a") as log:
        process = subprocess.Popen([sys.executable, "evaluate.py", *words], cwd=ROOT, stdout=log, stderr=log)
        while process.poll() is None:  # what it took at most is told by Linux alone, and only while it lives
            peak = max(peak, highest_memory(process.pid))
            time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"evaluate.py {' '.join(words)} failed (see {folder / 'scaling.log'}).")
    return {"seconds": time.perf_counter() - start, "peak_memory_mib": peak}


def table(found: dict[str, dict[int, list[dict[str, Any]]]], machine: str) -> str:
    """Medians over the rounds in Markdown, one part for each axis."""
    parts = [machine]
    for axis in AXES:
        if axis not in found:
            continue
        rows = []
        for value, records in found[axis].items():
            rows.append(
                [
                    label(axis, value),
                    f"{records[0]['parameters'] / 1e6:.2f} M",
                    f"{records[0]['gflop_forward']:.3f}",
                    middle([record["training_images_per_second"] for record in records]),
                    middle([record["training_gflop_per_second"] for record in records]),
                    f"{median(record['peak_memory_mib'] for record in records):,.0f} MiB",
                ]
            )
        heads = [AXES[axis][0], "parameters", "GFLOP forward", "training images/s", "training GFLOP/s", "peak memory"]
        parts.append(markdown_table(heads, rows))
    if "n" in found:
        rows = [
            [
                f"{n:,}",
                middle([record["seconds"] for record in records], 1),
                f"{median(record['peak_memory_mib'] for record in records):,.0f} MiB",
            ]
            for n, records in found["n"].items()
        ]
        parts.append(markdown_table(["n scored", "seconds of evaluate.py", "peak memory"], rows))
    return "\n\n".join(parts)


def plot(found: dict[str, dict[int, list[dict[str, Any]]]]) -> Any:
    """A panel for each axis, both scales logarithmic."""
    figure = Figure(figsize=(3.2 * len(found), 3.0), layout="constrained")
    for place, (axis, points) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        key = "seconds" if axis == "n" else "training_images_per_second"
        xs = [label(axis, value) for value in points]
        place.loglog(xs, [median(record[key] for record in records) for records in points.values()], "o-", color="C0")
        place.set_xlabel("images scored" if axis == "n" else AXES[axis][0])
        place.set_ylabel("seconds" if axis == "n" else "training images/s")
        place.set_xticks(xs, [f"{x / 1000:g}k" if axis == "n" else str(x) for x in xs], minor=False)
        place.xaxis.set_minor_locator(NullLocator())
        place.yaxis.set_major_formatter("{x:,.0f}")
        place.yaxis.set_minor_formatter("{x:,.0f}")
        place.grid(alpha=0.3, which="both")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*AXES, "n"], default=[*AXES, "n"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of training in each measurement")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / "benchmarks" / "scaling")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    device = torch.device(given.device)
    if given.measure:
        write_json(given.result, measure(given.measure.split(), device, given.seconds))
        return
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[int, list[dict[str, Any]]]] = {}
    if "n" in given.only:
        score_point(COUNTS[0], given.device, folder)  # makes the statistics of the real images
    for turn in range(given.rounds):
        for axis in given.only:
            for value in COUNTS if axis == "n" else AXES[axis][2]:
                record = (
                    score_point(value, given.device, folder)
                    if axis == "n"
                    else train_point(axis, value, given.seconds, given.device, folder)
                )
                found.setdefault(axis, {}).setdefault(value, []).append(record)
        print(f"round {turn + 1} of {given.rounds} done", flush=True)
    threads = f", {torch.get_num_threads()} CPU threads" if device.type == "cpu" else ""
    text = table(found, f"{name_of(device)}{threads}, PyTorch {torch.__version__}; medians of {given.rounds}.")
    print(text)
    write_json(folder / "scaling.json", found)
    if fill(PAGE, "scaling", "benchmarks/scaling.py", text):
        save_figure(PICTURE, plot(found))


if __name__ == "__main__":
    main()

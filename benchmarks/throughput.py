"""How fast networks train and run here, beside other projects': writes the table of docs/performance.md.

python benchmarks/throughput.py                                  about ten minutes on two cores
python benchmarks/throughput.py --only quickstart diffusers      some contenders
python benchmarks/throughput.py --device cuda --peak-tflops 989  on a GPU; without a peak, shares of its measured rate

Ours go through the step of `train.py`, the others (pip install -e ".[bench]") through the step that their projects
ship, each with its own batch size. Every measurement has a process of its own and the contenders take turns; the table
holds medians of the rounds. The machine's own rate is that of a product of two 2048×2048 matrices in the same process.
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import PAGE, ROOT, compose, fill, middle, read, run
from machine import PRECISIONS, SIDE, matrix_rate, name_of, peak_memory, rate
from peers import PEERS, make
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diffusion.config.resuming import plain
from diffusion.config.training_run import build_trainer
from diffusion.data.datasets import fashion_mnist_mini
from diffusion.data.images import batches
from diffusion.evaluation.document import markdown_table
from diffusion.records.results import write_json
from diffusion.training.loop import Trainer

BEST = "experiment=best model.width=64 training.images=196_480"  # the network of a quarter of an hour on two cores
OURS = {  # what train.py is told
    "quickstart": "",
    "quickstart_fp32": "device.precision=fp32",
    "best": BEST,
    "best_fp32": f"{BEST} device.precision=fp32",
    "best_compiled": f"{BEST} device.compile=reduce-overhead",
    "unet_small": "model=unet_small",
    "unet_small_fp32": "model=unet_small device.precision=fp32",
    "dit_small": "model=dit_small",
    "dit_small_fp32": "model=dit_small device.precision=fp32",
    "unet_simple": "model=unet_simple data.padding=2",
    "unet_base": "model=unet_base data.padding=2",
}
CONTENDERS = {
    "cpu": (
        *("quickstart", "quickstart_fp32", "best", "best_fp32", "unet_small", "unet_small_fp32"),
        *("dit_small", "dit_small_fp32", "diffusers", "denoising_diffusion_pytorch", "smalldiffusion_32"),
    ),
    "cuda": ("best", "best_compiled", "unet_small", "unet_base", "diffusers_wide", "diffusers"),
}
GPU_BATCH = "training.batch_size=256"


@dataclass(frozen=True)
class Work:
    """What is timed: a training step, the network alone, and what its forward pass is called with for one image."""

    step: Callable[[], object]
    forward: Callable[[], object]
    network: nn.Module
    inputs: tuple[Any, ...]
    batch_size: int
    bf16: bool
    deviations: Sequence[str] = ()  # of a peer from what it ships


# ------------------------------------------------------------------------------------------ one measurement


def our_trainer(words: Sequence[str], device: torch.device, folder: Path) -> Trainer:
    """A trainer as train.py builds it of these words, in `folder`."""
    words = [*words, "score.n=0", f"device={device.type}"]
    trainer: Trainer = build_trainer(plain(compose("train", *words)), folder)
    trainer.tracker.close()
    return trainer


def our_work(trainer: Trainer) -> Work:
    """A trainer's step, as the loop calls it."""
    size, denoiser = trainer.plan.batch_size, trainer.parts.denoiser
    data = batches(trainer.parts.data.train, size, trainer.seed, 0, trainer.parts.device.torch_device)
    channels, height, width = trainer.monitor.model.shape

    def inputs(n: int) -> tuple[Any, ...]:
        x = torch.randn(n, channels, height, width, device=trainer.parts.device.torch_device)
        labels = torch.zeros(n, dtype=torch.long, device=x.device) if denoiser.num_classes else None
        return x.to(memory_format=trainer.parts.device.memory_format), torch.full((n,), 500.0, device=x.device), labels

    whole = inputs(size)

    def forward() -> Tensor:
        with trainer.parts.device.autocast():
            return denoiser.network(*whole)

    def step() -> None:
        trainer.train_step(next(data))

    return Work(step, forward, denoiser.network, inputs(1), size, trainer.parts.device.autocasts)


def peer_work(name: str, device: torch.device) -> Work:
    """A peer, and its step on images that are in memory."""
    peer = make(name, device)
    data = peer.stream(fashion_mnist_mini().train, 0)
    whole = peer.inputs(peer.batch_size)

    def forward() -> object:
        with torch.autocast(device.type, torch.bfloat16, enabled=peer.bf16):
            return peer.network(*whole)

    return Work(
        lambda: peer.step(*next(data)),
        forward,
        peer.network,
        peer.inputs(1),
        peer.batch_size,
        peer.bf16,
        peer.deviations,
    )


def measure(words: str | Sequence[str], device: torch.device, seconds: float) -> dict[str, Any]:
    """All numbers of one contender: the name of a peer, or what train.py is told."""
    with tempfile.TemporaryDirectory() as folder:
        work = (
            peer_work(words, device) if isinstance(words, str) else our_work(our_trainer(words, device, Path(folder)))
        )
        work.network.train()
        training = work.batch_size * rate(work.step, seconds, device)
        memory = peak_memory(device)
        work.network.eval()
        with torch.no_grad():
            forward = work.batch_size * rate(work.forward, seconds / 2, device)
            # Attention is counted only where it is made of matrix products; a compiled forward is not counted at all.
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                work.network.forward(*work.inputs)
        gflop = counter.get_total_flops() / 1e9
        rates = {name: matrix_rate(kind, device) for name, kind in PRECISIONS.items()}
        return {
            "precision": "bf16" if work.bf16 else "fp32",
            "batch_size": work.batch_size,
            "parameters": sum(parameter.numel() for parameter in work.network.parameters()),
            "gflop_forward": gflop,
            "training_images_per_second": training,
            "forward_images_per_second": forward,
            "training_gflop_per_second": 3 * gflop * training,
            "peak_memory_mib": memory,
            "matrix_gflop_per_second": rates,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "device": device.type,
            "machine": name_of(device),
            "deviations": list(work.deviations),
        }


# ------------------------------------------------------------------------------------------------- the table


def table(found: dict[str, list[dict[str, Any]]], against: str, peak: float | None) -> str:
    """The medians of all rounds in Markdown.

    Args:
        found: contender → what `measure` gave in each round.
        against: the contender whose training speed is 1.
        peak: GFLOP/s that shares refer to, in place of the measured rate of the matrix product.
    """

    def values(name: str, key: str) -> list[float]:
        return [record[key] for record in found[name]]

    def share(record: dict[str, Any]) -> float:
        precision = "bf16" if record["device"] == "cuda" else record["precision"]  # as MFU is usually given
        whole = peak or record["matrix_gflop_per_second"][precision]
        return 100 * record["training_gflop_per_second"] / whole

    rows = []
    for name, records in found.items():
        speed, first = median(values(name, "training_images_per_second")), records[0]
        unit = median(values(against, "training_images_per_second")) if against in found else None
        rows.append(
            [
                f"`{name}`" if name in OURS else name,
                first["precision"],
                first["batch_size"],
                f"{first['parameters'] / 1e6:.1f} M",
                f"{first['gflop_forward']:.2f}",
                middle(values(name, "training_images_per_second"), 1),
                "–" if unit is None else f"{speed / unit:.2f}",
                middle(values(name, "forward_images_per_second"), 1),
                f"{median(values(name, 'training_gflop_per_second')):,.0f}",
                f"{median(map(share, records)):.{1 if peak else 0}f} %",
                f"{median(values(name, 'peak_memory_mib')):,.0f} MiB",
            ]
        )
    heads = ["", "precision", "batch", "parameters", "GFLOP forward", "training images/s", f"÷ {against}"]
    heads += ["forward images/s", "training GFLOP/s", "MFU" if peak else "of the matrix product's", "peak memory"]
    every = [record for records in found.values() for record in records]
    rates = {kind: middle([record["matrix_gflop_per_second"][kind] for record in every]) for kind in PRECISIONS}
    head = (
        f"{every[0]['machine']}, {every[0]['threads']} CPU threads, PyTorch {every[0]['torch']}; medians of "
        f"{len(max(found.values(), key=len))} (lowest – highest). A product of two {SIDE}×{SIDE} matrices: "
        f"{rates['fp32']} GFLOP/s in fp32, {rates['bf16']} in bf16."
    )
    notes = [f"- {name}: {'; '.join(r[0]['deviations'])}." for name, r in found.items() if r[0].get("deviations")]
    return "\n".join([f"{head}\n\n{markdown_table(heads, rows)}", *([""] if notes else []), *notes])


def rounds(names: Sequence[str], number: int, seconds: float, device: str, folder: Path) -> dict[str, list]:
    """Contender → its records; each round goes through all contenders."""
    found: dict[str, list] = {name: [] for name in names}
    for turn in range(number):
        for name in names:
            result = folder / f"{name}.json"
            words = ["--measure", name, "--result", str(result), "--seconds", str(seconds), "--device", device]
            run("benchmarks/throughput.py", *words, log=folder / f"{name}.log")
            found[name].append(read(result))
            speed = found[name][-1]["training_images_per_second"]
            print(f"round {turn + 1} of {number}, {name}: {speed:.1f} training images/s", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=CONTENDERS, default="cpu")
    parser.add_argument("--only", nargs="+", choices=[*OURS, *PEERS], help="contenders, in this order")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of training in each measurement")
    parser.add_argument("--against", default="quickstart", help="the contender whose training speed is 1")
    parser.add_argument("--peak-tflops", type=float, help="of the device in the precision that is used")
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / "benchmarks")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        ours = [*OURS.get(given.measure, "").split(), *([GPU_BATCH] if given.device == "cuda" else [])]
        words = ours if given.measure in OURS else given.measure
        write_json(given.result, measure(words, torch.device(given.device), given.seconds))
        return
    names, mark = given.only or CONTENDERS[given.device], f"throughput{'_cuda' if given.device == 'cuda' else ''}"
    found = rounds(names, given.rounds, given.seconds, given.device, given.folder.resolve() / mark)
    text = table(found, given.against, given.peak_tflops and 1000 * given.peak_tflops)
    print(text)
    write_json(given.folder / f"{mark}.json", {"seconds": given.seconds, "against": given.against, "rounds": found})
    if not fill(PAGE, mark, "benchmarks/throughput.py", text):
        print(f"{os.path.relpath(PAGE)} has no place for this table.")


if __name__ == "__main__":
    main()

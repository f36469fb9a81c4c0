"""Where the time of a training step goes, and how near each layer is to the machine's limits.

    python benchmarks/roofline.py            the quickstart's step: a table and docs/roofline.png
    python benchmarks/roofline.py experiment=best model.width=64 training.images=196_480     another; no page is touched

The shares are those of a profile of whole steps. The dots are the layers of the network, each timed alone, forward and
backward: its floating-point operations a second over those for each byte that it must at least read and write. Above it
the roofs: a product of two square matrices, and memory that is added up and written, both measured in the same process.
"""

import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import PAGE, ROOT, compose, fill
from machine import PRECISIONS, SIDE, matrix_rate, name_of, synchronise
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from diffusion.config.resuming import plain
from diffusion.config.training_run import build_trainer
from diffusion.data.images import batches, encode, pad_images
from diffusion.evaluation.document import markdown_table
from diffusion.evaluation.plots import save_figure
from diffusion.training.loop import Trainer

PICTURE = ROOT / "docs" / "roofline.png"
STEPS = 20
KINDS = (  # the first whose words are in an operation's name
    ("convolutions", ("convolution", "conv2d")),
    ("attention", ("attention", "bmm")),
    ("matrix products", ("addmm", "::mm", "linear")),
    ("group norm", ("group_norm", "layer_norm", "batch_norm")),
    ("averages of the weights", ("_foreach_lerp",)),
    ("copies, casts, concatenations", ("copy_", "::cat", "clone", "_to_copy", "contiguous", "zero_", "fill_")),
    ("random numbers", ("normal_", "uniform_", "rand", "bernoulli")),
    ("activations and other element-wise work", ("",)),
)


def kind_of(event: Any) -> str:
    """What an operation of the profile belongs to."""
    parent = event
    while parent is not None:
        if parent.name.startswith("Optimizer.step"):
            return "optimizer"
        parent = parent.cpu_parent
    return kind_named(event.name)


def kind_named(operation: str) -> str:
    """The first kind one of whose words is in the name."""
    return next(kind for kind, words in KINDS if any(word in operation.lower() for word in words))


def shares(trainer: Trainer) -> tuple[dict[str, float], float]:
    """Seconds of each kind of work in a step, and of a whole step without the profiler."""
    device = trainer.parts.device.torch_device
    data = batches(trainer.parts.data.train, trainer.plan.batch_size, trainer.seed, 0, device)
    seconds = []
    for _ in range(STEPS):
        start = time.perf_counter()
        trainer.train_step(next(data))
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(STEPS):
            trainer.train_step(next(data))
    spent: dict[str, float] = defaultdict(float)
    for event in found.events():
        spent[kind_of(event)] += event.self_cpu_time_total / 1e6 / STEPS
    return dict(spent), median(seconds[3:])


def layers(trainer: Trainer) -> list[tuple[str, float, float, float]]:
    """Of each convolution, linear layer and norm: kind, operations per byte, GFLOP/s, seconds a step."""
    seen: list[tuple[nn.Module, Tensor]] = []
    kinds = {nn.Conv2d: "convolution", nn.Linear: "linear", nn.GroupNorm: "group norm", nn.SiLU: "SiLU"}
    hooks = [
        module.register_forward_hook(lambda module, given, _: seen.append((module, given[0].detach())))
        for module in trainer.parts.denoiser.network.modules()
        if isinstance(module, tuple(kinds))
    ]
    images, labels = trainer.parts.data.train.select(torch.arange(trainer.plan.batch_size))
    with trainer.parts.device.autocast():
        trainer.parts.denoiser.network(
            encode(pad_images(images, trainer.parts.data.padding)).to(memory_format=trainer.parts.device.memory_format),
            torch.full((len(images),), 500.0),
            labels if trainer.parts.denoiser.num_classes else None,
        )
    for hook in hooks:
        hook.remove()
    found = []
    for module, given in seen:
        kind = next(name for cls, name in kinds.items() if isinstance(module, cls))
        x = given.clone(memory_format=torch.preserve_format).requires_grad_()
        with trainer.parts.device.autocast():
            out = module(x)
        sought, gradient = (x, *module.parameters()), torch.ones_like(out)

        def work(module: nn.Module = module, sought: tuple = sought, gradient: Tensor = gradient) -> None:
            with trainer.parts.device.autocast():
                out = module(sought[0])
            torch.autograd.grad(out, sought, gradient)

        with FlopCounterMode(display=False) as counter, trainer.parts.device.autocast():
            module(x).backward(gradient)
        # Norms and activations: about ten operations a number, forward and backward.
        flops = counter.get_total_flops() or 10 * x.numel()
        # Forward reads input and weights and writes the output; backward reads both and the output's gradient, and
        # writes two gradients.
        weights = sum(p.numel() * p.element_size() for p in module.parameters())
        bytes_ = 3 * weights + 3 * x.numel() * x.element_size() + 2 * out.numel() * out.element_size()
        seconds = clock(work)
        found.append((kind, flops / bytes_, flops / seconds / 1e9, seconds))
    return found


def clock(work: Callable[[], object], limit: float = 0.15) -> float:
    """Median seconds of a call."""
    times: list[float] = []
    end = time.perf_counter() + limit
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return median(times)


def bandwidth() -> float:
    """GB/s of adding two arrays of 64 MiB into a third."""
    a, b, c = (torch.ones(2**24) for _ in range(3))
    return 3 * a.numel() * 4 / clock(lambda: torch.add(a, b, out=c)) / 1e9


def plot(dots: list[tuple[str, float, float, float]], rates: dict[str, float], stream: float) -> Figure:
    """The roofs, and under them a dot for each layer, larger where it takes more of the step."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    place = figure.subplots()
    xs = torch.logspace(-1, 3.2, 100).tolist()
    for number, (name, rate) in enumerate(rates.items()):
        roof = [min(rate, stream * x) for x in xs]
        place.loglog(xs, roof, color="0.35", ls=("-", "--")[number], label=f"limit, {name}: {rate:,.0f} GFLOP/s")
    for number, kind in enumerate(dict.fromkeys(dot[0] for dot in dots)):
        mine = [dot for dot in dots if dot[0] == kind]
        place.scatter(
            [dot[1] for dot in mine],
            [dot[2] for dot in mine],
            s=[8 + 8000 * dot[3] for dot in mine],
            color=f"C{number}",
            alpha=0.6,
            label=kind,
            edgecolors="none",
        )
    place.set_xlabel("floating-point operations for each byte read or written")
    place.set_ylabel("GFLOP/s")
    place.grid(alpha=0.3)
    legend = place.legend(frameon=False, fontsize=8, loc="lower right")
    for handle in legend.legend_handles:
        if isinstance(handle, PathCollection):
            handle.set_sizes([30])
    return figure


def table(spent: dict[str, float], seconds: float, trainer: Trainer, flops: dict[str, float], rate: float) -> str:
    """The shares in Markdown, the largest first."""
    total = sum(spent.values())
    rows = []
    for kind, part in sorted(spent.items(), key=lambda pair: -pair[1]):
        here = flops.get(kind, 0.0)
        speed = f"{here / part / 1e9:,.0f}" if here else "–"
        rows.append([kind, f"{100 * part / total:.1f} %", f"{here / 1e9:.2f}" if here else "–", speed])
    whole = sum(flops.values())
    rows.append(["**all**", "100 %", f"{whole / 1e9:.2f}", f"{whole / seconds / 1e9:,.0f}"])
    device = trainer.parts.device
    head = (
        f"A step of {trainer.plan.batch_size} images takes {1000 * seconds:.0f} ms ({device.describe()}; "
        f"{name_of(device.torch_device)}): {100 * whole / seconds / 1e9 / rate:.0f} % of the rate of a product "
        f"of two {SIDE}×{SIDE} matrices, {rate:,.0f} GFLOP/s."
    )
    heads = ["", "of the operations' time", "GFLOP", "GFLOP/s"]
    return f"{head}\n\n{markdown_table(heads, rows)}"


def count(trainer: Trainer) -> dict[str, float]:
    """Floating-point operations of a step by kind, without those of the optimizer."""
    parts = trainer.parts
    data = batches(parts.data.train, trainer.plan.batch_size, trainer.seed, 0, parts.device.torch_device)
    plain_step, parts.optimizer.step = parts.optimizer.step, lambda *_: None  # type: ignore[method-assign,assignment]
    # Attention is counted only where it is made of matrix products.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        trainer.train_step(next(data))
    parts.optimizer.step = plain_step  # type: ignore[method-assign]
    found: dict[str, float] = defaultdict(float)
    for operation, flops in counter.get_flop_counts()["Global"].items():
        found[kind_named(str(operation).replace(".", "::"))] += flops
    return dict(found)


def main() -> None:
    words = sys.argv[1:]
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return
    with tempfile.TemporaryDirectory() as folder:
        cfg = compose("train", "score.n=0", "score.held_out=0", "device=cpu", *words)
        trainer = build_trainer(plain(cfg), Path(folder))
        trainer.tracker.close()
        trainer.parts.denoiser.network.train()
        rates = {name: matrix_rate(kind, torch.device("cpu")) for name, kind in PRECISIONS.items()}
        stream = bandwidth()
        spent, seconds = shares(trainer)
        flops = count(trainer)
        text = table(spent, seconds, trainer, flops, rates["bf16" if trainer.parts.device.autocasts else "fp32"])
        print(text)
        figure = plot(layers(trainer), rates, stream)
        print(f"\nMemory: {stream:.0f} GB/s.")
    if not words and fill(PAGE, "roofline", "benchmarks/roofline.py", text):
        save_figure(PICTURE, figure)
    else:
        save_figure(Path("roofline.png"), figure)
        print("The figure is in roofline.png.")


if __name__ == "__main__":
    main()

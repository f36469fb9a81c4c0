"""What a GPU tells in a few minutes: speed, what a budget of training buys, the rungs of the ladder, fast drawing.

python benchmarks/gpu.py --minutes 9                      writes the tables of docs/performance.md and docs/ladder.md
python benchmarks/gpu.py --minutes 9                      again: goes on with what is not done yet
python benchmarks/gpu.py --table                          only write the tables, from what is there
python benchmarks/gpu.py --small --device cpu --minutes 5    the same in small, to try it out; writes no page

The parts come in order of their value, each in a process of its own that is a child of this one. A part that the time
left is too short for is not started, so that a shorter one takes its place; one that is still at work when the time is
over is ended, and done again by the next call. What --small finds has a folder of its own. Rungs of the ladder, which
see equally many images, run side by side; nothing that is timed does. MFU is the share of the card's peak in bf16, from
`machine.PEAKS` or --peak-tflops.
"""

import argparse
import os
import re
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import ladder as rungs
import throughput
from common import PAGE, ROOT, compose, fill, read, run
from machine import name_of, peak_tflops, synchronise

from diffusion.evaluation.document import markdown_table
from diffusion.records import checkpoint
from diffusion.records.results import write_json
from diffusion.training.pacing import budget_seconds

FOLDER = ROOT / "outputs" / "gpu"
GRAPHS = "device.compile=reduce-overhead"  # replays CUDA graphs of the network
CONTENDERS = ("best", "diffusers", "best_compiled", "unet_base", "diffusers_wide", "unet_small")
LADDER = ("base", "improved", "cosine", "ema", "cfg", "v", "flow", "edm", "dit")
DRAWINGS = ("drawing.json", "drawing_compiled.json")  # plain, and with `GRAPHS`
COMPILING = 60  # seconds, at most as a rule


@dataclass(frozen=True)
class Size:
    """How much is done: on a GPU, or in small on a CPU.

    Args:
        contenders: of the throughput, the most telling first.
        seconds: of each measurement of speed.
        budgets: of trainings with `experiment=best`, as that stands.
        compiled: which of them are repeated with `GRAPHS`, the width and batch size that the plain one had.
        words: for all of them.
        n: images that are scored after each.
        drawn: images that are drawn as fast as it goes.
        batches: images at once, of which the best counts.
        scale: of the ladder.
        ladder: its rungs.
    """

    contenders: Sequence[str]
    seconds: float
    budgets: Sequence[str]
    compiled: Sequence[str]
    words: str
    n: int
    drawn: int
    batches: Sequence[int]
    scale: str
    ladder: Sequence[str]


FULL = Size(
    contenders=CONTENDERS,
    seconds=2.0,
    budgets=("30s", "1min", "3min"),
    compiled=("1min", "3min"),
    words="",
    n=5000,
    drawn=10_000,
    batches=(1000, 2500, 5000, 10_000),
    scale="minutes",
    ladder=LADDER,
)
SMALL = Size(
    contenders=("best",),
    seconds=0.2,
    budgets=("2s",),
    compiled=(),
    words="model.width=8 training.batch_size=8",
    n=60,
    drawn=60,
    batches=(30, 60),
    scale="trial",
    ladder=("v", "dit"),
)


class Session:
    """One call: what is done, where, and until when.

    Args:
        folder: of all results.
        device: "cpu" or "cuda".
        size: how much is done.
        minutes: after which everything is ended.
        peak: TFLOP/s in bf16, where `machine.PEAKS` does not know the card.
    """

    def __init__(self, folder: Path, device: str, size: Size, minutes: float, peak: float | None = None) -> None:
        self.folder, self.device, self.size, self.peak = folder, device, size, peak
        self.deadline = time.perf_counter() + 60 * minutes

    def left(self) -> float:
        return self.deadline - time.perf_counter()

    def call(self, what: str, result: Path, script: str, *words: str, takes: float, more: bool = False) -> None:
        """A process that writes `result`, or `more` into it; not where it is there, or takes longer than is left."""
        if (result.exists() and not more) or self.left() < takes:
            return
        log = self.folder / "logs" / f"{what.replace(' ', '_')}.log"
        start = time.perf_counter()
        try:
            run(script, *words, log=log, seconds=max(self.left(), 1))
        except SystemExit as error:
            print(f"{what}: {error}", flush=True)
            return
        print(f"{what}: {time.perf_counter() - start:.0f} s, {self.left():.0f} s left", flush=True)

    # ------------------------------------------------------------------------------------------------ the parts

    def run(self) -> None:
        """Everything: what tells the most for its seconds comes first."""
        self.throughput()
        for budget in self.size.budgets[:2]:
            self.budget(budget)
        self.drawing()
        self.ladder()
        for budget, compiled in self.trainings():
            self.budget(budget, compiled)
        self.drawing(compiled=True)

    def trainings(self) -> list[tuple[str, bool]]:
        """Every budget, and whether with `GRAPHS`, each beside the plain one."""
        return [(budget, how) for budget in self.size.budgets for how in (False, True)
                if not how or budget in self.size.compiled]  # fmt: skip

    def throughput(self) -> None:
        """One measurement of each contender."""
        for name in self.size.contenders:
            result = self.folder / "throughput" / f"{name}.json"
            words = ["--measure", name, "--result", str(result), "--seconds", str(self.size.seconds)]
            words += ["--device", self.device]
            takes = 8 + 2 * self.size.seconds + COMPILING * ("compiled" in name)
            self.call(f"throughput of {name}", result, "benchmarks/throughput.py", *words, takes=takes)

    def place(self, budget: str, compiled: bool = False) -> Path:
        """The run folder of a budget; its scores are in record/ there, where benchmarks/records.py looks for them."""
        return self.folder / "budgets" / f"{budget}{'_compiled' if compiled else ''}"

    def words(self, budget: str, compiled: bool) -> list[str] | None:
        """What `experiment=best` is told for a budget; a compiled one needs the plain one, and is None before."""
        given = [f"training.budget={budget}", *self.size.words.split()]
        if not compiled:
            return given
        plain = self.place(budget) / "metrics.json"
        if not plain.exists():
            return None
        config = read(plain)["config"]
        chosen = [f"model.width={config['model']['width']}", f"training.batch_size={config['training']['batch_size']}"]
        return [given[0], *chosen, GRAPHS]

    def budget(self, budget: str, compiled: bool = False) -> None:
        """A training with `experiment=best`, and its scores."""
        place, words = self.place(budget, compiled), self.words(budget, compiled)
        if words is None:
            return
        takes = budget_seconds(budget) + 30  # the data, and the guidance, which is chosen after the training
        what = f"{budget}{' compiled' if compiled else ''}"
        if not (place / "metrics.json").exists() and self.left() > takes:
            shutil.rmtree(place, ignore_errors=True)  # half a budget, and the rest in another call, is not the same
        given = ["experiment=best", *words, "score.n=0", "training.preview_every=0", f"device={self.device}"]
        self.call(f"train {what}", place / "metrics.json", "train.py", *given, f"hydra.run.dir={place}", takes=takes)
        if (place / "metrics.json").exists():
            result = place / "record" / "metrics.json"
            given = [f"checkpoint={place}", f"n={self.size.n}", f"device={self.device}"]
            self.call(f"score {what}", result, "evaluate.py", *given, f"hydra.run.dir={result.parent}", takes=20)

    def drawing(self, compiled: bool = False) -> None:
        """Many images as fast as it goes, in batches of each size that was not done yet."""
        place, found = self.drawn(), self.drawings()[compiled]
        batches = [each for each in self.size.batches if each not in {one["batch"] for one in found["batches"]}]
        if place is not None and batches and not (compiled and not self.size.compiled):
            result = self.folder / DRAWINGS[compiled]
            words = ["--draw", str(place), "--result", str(result), "--device", self.device]
            words += ["--n", str(self.size.drawn), "--batches", *map(str, batches)]
            words += ["--compile"] if compiled else []
            what = f"draw{' compiled' if compiled else ''}"
            takes = 25 + 2 * COMPILING * compiled
            self.call(what, result, "benchmarks/gpu.py", *words, takes=takes, more=True)

    def drawings(self) -> list[dict[str, Any]]:
        """What is known of drawing, plain and compiled."""
        paths = [self.folder / name for name in DRAWINGS]
        return [read(path) if path.exists() else {"batches": []} for path in paths]

    def drawn(self) -> Path | None:
        """The run whose images are drawn: the longest of the plain ones, and from then on that one, so that plain and
        compiled drawing are of one model."""
        places = {self.place(budget).name: self.place(budget) for budget in self.size.budgets}
        done = [place for place in places.values() if (place / "metrics.json").exists()]
        before = [place for found in self.drawings() for place in done if place.name == found.get("run")]
        return next(iter([*before, *done[::-1]]), None)

    def ladder(self) -> None:
        """The rungs, some side by side: a dozen at once would keep each other waiting for the GPU."""
        ladder = rungs.Ladder(self.size.scale, self.folder / "ladder", 1, self.deadline)

        def rung(name: str) -> None:
            if self.left() > 20:
                try:
                    ladder.score(rungs.RUNGS[name], 0)
                except SystemExit as error:
                    print(f"{name}: {error}", flush=True)

        with ThreadPoolExecutor(4 if self.device == "cuda" else 1) as pool:
            list(pool.map(rung, self.size.ladder))

    # ----------------------------------------------------------------------------------------------- the tables

    def write(self) -> None:
        """All that is done, into the pages."""
        suffix = "_cuda" if self.device == "cuda" else ""
        results = {name: self.folder / "throughput" / f"{name}.json" for name in self.size.contenders}
        found = {name: [read(path)] for name, path in results.items() if path.exists()}
        if found:
            self.fill(PAGE, f"throughput{suffix}", "throughput.py", self.speeds(found))
        self.fill(PAGE, f"budgets{suffix}", "gpu.py", self.budget_table())
        self.fill(PAGE, f"drawing{suffix}", "gpu.py", self.drawing_table())
        ladder = rungs.Ladder(self.size.scale, self.folder / "ladder", 1)
        self.fill(rungs.PAGE, self.size.scale, "ladder.py", ladder.text(self.size.ladder))

    def fill(self, page: Path, mark: str, script: str, text: str) -> None:
        print(f"\n{text}", flush=True)
        known = text != "Not measured."  # else what an earlier machine measured stays
        if self.size is FULL and known and not fill(page, mark, f"benchmarks/{script}", text):
            print(f"{os.path.relpath(page)} has no place for the table {mark}.")

    def speeds(self, found: dict[str, list[dict[str, Any]]]) -> str:
        """The table of the throughput, with MFU where the card's peak is known."""
        machine = next(iter(found.values()))[0]["machine"]
        peak = self.peak or peak_tflops(machine)
        table = throughput.table(found, "diffusers", peak and 1000 * peak)
        if peak:
            return f"{table}\n\nMFU: of {peak:g} TFLOP/s, the peak of {machine} in bf16."
        return f"{table}\n\nMFU: not known, for the peak of {machine} in bf16 is not: `--peak-tflops` says it."

    def budget_table(self) -> str:
        """What each budget bought."""
        heads = ["`train.py experiment=best …`", "width", "batch", "images seen", "images/s", "FID", "FID, real images"]
        heads += ["recall", "recall, real", "accuracy", "accuracy, real", "copies", "nearer", "seconds to draw"]
        rows: list[list[str]] = []
        machines: set[str] = set()
        for budget, compiled in self.trainings():
            place, words = self.place(budget, compiled), self.words(budget, compiled)
            if words is None or not (place / "metrics.json").exists():
                continue
            scores = place / "record" / "metrics.json"
            state = checkpoint.load(place / checkpoint.LAST)
            rows.append([f"`{' '.join(words)}`", *budget_row(state, read(scores) if scores.exists() else None)])
            log = (place / "train.log").read_text(encoding="utf-8")
            machines |= set(re.findall(r"Device: (?:cuda:\d+ )?(.*)\.$", log, re.MULTILINE))
        if not rows:
            return "Not measured."
        return f"{', '.join(sorted(machines))}; n = {self.size.n:,}.\n\n{markdown_table(heads, rows)}"

    def drawing_table(self) -> str:
        """How long many images take, in batches of each size."""
        rows: list[list[str]] = []
        head = ""
        for found, how in zip(self.drawings(), ("no", f"`{GRAPHS}`"), strict=True):
            rows += [[how, f"{each['batch']:,}", f"{each['seconds']:.2f}"] for each in found["batches"]]
            if found["batches"]:
                head = f"{found['machine']}; {found['n']:,} images of width {found['width']}, {found['evaluations']:g} "
                head += "network evaluations each; medians of three, after a warm-up."
        return (
            f"{head}\n\n{markdown_table(['compiled', 'images at once', 'seconds'], rows)}" if rows else "Not measured."
        )


def budget_row(state: dict[str, Any], scores: dict[str, Any] | None) -> list[str]:
    """One row of the table of budgets but its first cell, of a checkpoint and its scores."""
    config = state["config"]
    images = state["step"] * config["training"]["batch_size"]
    row = [str(config["model"]["width"]), str(config["training"]["batch_size"]), f"{images:,}"]
    row.append(f"{images / state['seconds']:,.0f}")
    if scores is None:
        return [*row, *["not measured"] * 9]
    pairs = [scope[key] for key in ("fid", "recall", "accuracy") for scope in (scores, scores["real"])]
    found = scores["memorisation"]
    row += ["–" if value is None else f"{value:.3f}" for value in pairs]
    return [*row, f"{found['copies']:.4f}", f"{found['nearer_than_real']:.4f}", f"{scores['settings']['seconds']:.1f}"]


def draw(run: Path, result: Path, device: str, n: int, batches: Sequence[int], compiled: bool) -> None:
    """Draw n images with a model in batches of several sizes, each after a warm-up of one batch.

    `result` is written after each of them, behind what it holds, so that a batch too large for the memory, or an end of
    the time, loses none that is done.
    """
    from diffusion.config import trained

    cfg = compose("sample", f"checkpoint={run}", f"device={device}", *([GRAPHS] if compiled else []))
    model, state = trained.open_model(cfg)
    sampler, place = trained.choose_sampler(cfg.sampler, state["config"]), model.device.torch_device

    def seconds(count: int, batch: int) -> float:
        synchronise(place)
        start = time.perf_counter()
        model.draw(sampler, count, model.labels(count), 0, batch)
        return time.perf_counter() - start

    record = {"run": run.name, "n": n, "width": state["config"]["model"]["width"], "machine": name_of(place)}
    found = list(read(result)["batches"]) if result.exists() else []
    for batch in batches:
        seconds(min(batch, n), batch)
        found.append({"batch": batch, "seconds": median(seconds(n, batch) for _ in range(3))})
        write_json(result, {**record, "evaluations": model.evaluations, "compiled": compiled, "batches": found})
        print(f"{n} images, {batch} at once: {found[-1]['seconds']:.2f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9, help="after which everything is ended")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--peak-tflops", type=float, help="of the card in bf16")
    parser.add_argument("--small", action="store_true", help="little of everything")
    parser.add_argument("--folder", type=Path, help="of the results; outputs/gpu, or outputs/gpu_small with --small")
    parser.add_argument("--table", action="store_true", help="only write the tables")
    for word in ("--draw", "--result"):
        parser.add_argument(word, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--n", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--batches", type=int, nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--compile", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.draw:
        draw(given.draw, given.result, given.device, given.n, given.batches, given.compile)
        return
    if given.device == "cpu" and not given.small:
        parser.error("--device cpu goes with --small")
    folder, size = (FOLDER.with_name("gpu_small"), SMALL) if given.small else (FOLDER, FULL)
    session = Session((given.folder or folder).resolve(), given.device, size, given.minutes, given.peak_tflops)
    try:
        if not given.table:
            session.run()
    finally:
        session.write()


if __name__ == "__main__":
    main()

"""What a GPU tells in a few minutes: speed, what a budget of training buys, and the rungs of the ladder.

python benchmarks/gpu.py --minutes 9                      writes the tables of docs/performance.md and docs/ladder.md
python benchmarks/gpu.py --minutes 4                      goes on with what is not done yet
python benchmarks/gpu.py --table                          only write the tables, from what is there
python benchmarks/gpu.py --small --device cpu --minutes 5    the same in small, to try it out

The parts come in order of their value, each in processes of its own; one that the time left is too short for is not
started, and one that is still at work when the time is over is ended, and done again by the next call. Rungs of the
ladder, which see equally many images, run side by side; nothing that is timed does.
"""

import argparse
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ladder as rungs
import throughput
from common import PAGE, ROOT, compose, fill, read, run
from machine import name_of, synchronise

from diffusion.evaluation.document import markdown_table
from diffusion.records.results import write_json
from diffusion.training.pacing import budget_seconds

FOLDER = ROOT / "outputs" / "gpu"
# name → (budget, what else train.py is told)
BUDGETS = {
    "1 min, as it stands": ("1min", ""),
    "1 min": ("1min", "training.batch_size=256"),
    "2 min": ("2min", "training.batch_size=256 model.width=96"),
}
SCALES = ("", "guidance.scale=1.5")  # what the models of the budgets are drawn with
LADDER = "v ema cosine base improved cfg flow edm dit".split()
DRAWN = 10_000


@dataclass(frozen=True)
class Size:
    """How much is done: on a GPU, or in small on a CPU."""

    contenders: Sequence[str]
    seconds: float  # of each measurement of speed
    budgets: dict[str, tuple[str, str]]
    n: int  # images that are scored after each budget
    drawn: int
    ladder: list[str]


FULL = Size(throughput.CONTENDERS["cuda"], 2.0, BUDGETS, 5000, DRAWN, LADDER)
SMALL = Size(("best",), 0.2, {"2 s": ("2s", "model.width=8 training.batch_size=8")}, 60, 60, [])


class Session:
    """One call: what is done, where, and until when."""

    def __init__(self, folder: Path, device: str, size: Size, minutes: float) -> None:
        self.folder, self.device, self.size = folder, device, size
        self.deadline = time.perf_counter() + 60 * minutes

    def left(self) -> float:
        return self.deadline - time.perf_counter()

    def call(self, what: str, result: Path, script: str, *words: str, takes: float) -> None:
        """A process that writes `result`; not where that is there, or where fewer seconds are left than it takes."""
        if result.exists() or self.left() < takes:
            return
        log = self.folder / "logs" / f"{file_name(what)}.log"
        start = time.perf_counter()
        try:
            run(script, *words, log=log, seconds=max(self.left(), 1))
        except SystemExit as error:
            print(f"{what}: {error}", flush=True)
            return
        print(f"{what}: {time.perf_counter() - start:.0f} s, {self.left():.0f} s left", flush=True)

    # ------------------------------------------------------------------------------------------------ the parts

    def throughput(self) -> None:
        """One measurement of each contender."""
        for name in self.size.contenders:
            result = self.folder / "throughput" / f"{name}.json"
            words = ["--measure", name, "--result", str(result), "--seconds", str(self.size.seconds)]
            words += ["--device", self.device]
            takes = 8 + 2 * self.size.seconds + 60 * ("compiled" in name)
            self.call(f"throughput of {name}", result, "benchmarks/throughput.py", *words, takes=takes)

    def place(self, name: str) -> Path:
        """The folder of a budget."""
        return self.folder / "budgets" / file_name(name)

    def budgets(self) -> None:
        """`experiment=best` for some budgets, scored, and the time that 10,000 images of each take."""
        for name, (budget, words) in self.size.budgets.items():
            place = self.place(name)
            done = place / "run" / "metrics.json"
            quiet = ["score.n=0", "training.preview_every=0", f"hydra.run.dir={place / 'run'}"]
            given = ["experiment=best", f"training.budget={budget}", *words.split(), *quiet, f"device={self.device}"]
            self.call(f"train {name}", done, "train.py", *given, takes=budget_seconds(budget) + 15)
            if not done.exists():
                continue
            for drawn in SCALES:
                folder = place / f"score{drawn}"
                given = [f"checkpoint={place / 'run'}", f"n={self.size.n}", f"device={self.device}", *drawn.split()]
                given.append(f"hydra.run.dir='{folder}'")
                self.call(f"score {name} {drawn}", folder / "metrics.json", "evaluate.py", *given, takes=20)
            given = ["--draw", str(place), "--device", self.device, "--n", str(self.size.drawn)]
            self.call(f"draw {name}", place / "drawing.json", "benchmarks/gpu.py", *given, takes=15)

    def ladder(self) -> None:
        """The rungs, some side by side: a dozen at once would keep each other waiting for the GPU."""
        ladder = rungs.Ladder("minutes", self.folder / "ladder", 1, self.deadline)

        def rung(name: str) -> None:
            if self.left() > 20:
                try:
                    ladder.score(rungs.RUNGS[name], 0)
                except SystemExit as error:
                    print(f"{name}: {error}", flush=True)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(rung, self.size.ladder))

    # ----------------------------------------------------------------------------------------------- the tables

    def write(self) -> None:
        """All that is done, into the pages."""
        suffix = "_cuda" if self.device == "cuda" else ""
        results = {name: self.folder / "throughput" / f"{name}.json" for name in self.size.contenders}
        found = {name: [read(path)] for name, path in results.items() if path.exists()}
        if found:
            self.fill(PAGE, f"throughput{suffix}", "throughput.py", throughput.table(found, "diffusers", None))
        rows, machine = [], ""
        for name, (budget, words) in self.size.budgets.items():
            for drawn in SCALES:
                scores, drawing = self.place(name) / f"score{drawn}" / "metrics.json", self.place(name) / "drawing.json"
                if drawing.exists() and (scores.exists() or not drawn):
                    told = f"training.budget={budget} {words}".strip()
                    rows.append(budget_row(told, drawn, read(scores) if scores.exists() else None, read(drawing)))
                    machine = read(drawing)["machine"]
        if rows:
            heads = ["`train.py experiment=best …`", "drawn with", "images seen", "images/s", "FID", "FID, real images"]
            heads += ["recall", "recall, real", "accuracy", "accuracy, real", f"seconds to draw {self.size.drawn:,}"]
            self.fill(
                PAGE, f"budgets{suffix}", "gpu.py", f"{machine}; n = {self.size.n:,}.\n\n{markdown_table(heads, rows)}"
            )
        if self.size.ladder:
            rungs.Ladder("minutes", self.folder / "ladder", 1).write(self.size.ladder)

    def fill(self, page: Path, mark: str, script: str, text: str) -> None:
        print(text, flush=True)
        if self.size is FULL and not fill(page, mark, f"benchmarks/{script}", text):
            print(f"{os.path.relpath(page)} has no place for the table {mark}.")


def file_name(words: str) -> str:
    """Words as the name of a file."""
    return words.strip().replace(" ", "_").replace(",", "")


def budget_row(words: str, drawn: str, scores: dict[str, Any] | None, drawing: dict[str, Any]) -> list[str]:
    """One row of the table of budgets."""
    keys = [(key, real) for key in ("fid", "recall", "accuracy") for real in (False, True)]
    return [
        f"`{words}`",
        f"`{drawn}`" if drawn else "the run's own",
        f"{drawing['images']:,}",
        f"{drawing['images'] / drawing['training_seconds']:,.0f}",
        *("not measured" if scores is None else f"{(scores['real'] if r else scores)[key]:.3f}" for key, r in keys),
        f"{drawing['seconds']:.1f}",
    ]


def draw(place: Path, device: str, n: int) -> None:
    """Draw with the model of a budget as fast as it goes, after a warm-up of one batch; writes drawing.json."""
    from diffusion.config import trained

    cfg = compose("sample", f"checkpoint={place / 'run'}", f"device={device}")
    model, state = trained.open_model(cfg)
    sampler, batch = trained.choose_sampler(cfg.sampler, state["config"]), model.device.images_at_once(None)

    def drawn(count: int) -> float:
        synchronise(model.device.torch_device)
        start = time.perf_counter()
        model.draw(sampler, count, model.labels(count), 0, batch)
        return time.perf_counter() - start

    drawn(min(batch, n))
    record: dict[str, Any] = {"seconds": drawn(n), "n": n, "evaluations": model.evaluations}
    record["images"] = state["step"] * state["config"]["training"]["batch_size"]
    record |= {"training_seconds": state["seconds"], "machine": name_of(model.device.torch_device)}
    write_json(place / "drawing.json", record)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9, help="after which everything is ended")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--small", action="store_true", help="little of everything")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--table", action="store_true", help="only write the tables")
    parser.add_argument("--draw", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--n", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.draw:
        draw(given.draw, given.device, given.n)
        return
    session = Session(given.folder.resolve(), given.device, SMALL if given.small else FULL, given.minutes)
    try:
        if not given.table:
            session.throughput()
            session.budgets()
            session.ladder()
    finally:
        session.write()


if __name__ == "__main__":
    main()

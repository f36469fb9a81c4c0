"""What each idea of the ladder does to the scores: trains and scores every rung, writes the tables of docs/ladder.md.

python benchmarks/ladder.py                       narrow networks and short runs: one to two hours on two cores
python benchmarks/ladder.py --scale full          the rungs as their experiment files have them, on a GPU
python benchmarks/ladder.py --only v ddim_10      some rungs
python benchmarks/ladder.py --table               only write the tables, from what is there

Everything goes through train.py and evaluate.py, in processes of their own. What is finished is not done again, and a
training that was interrupted goes on, so that the same command continues after a stop.
"""

# ruff: noqa: E501
import argparse
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from threading import Lock
from typing import Any

from common import ROOT, fill, run

from diffusion.evaluation.document import markdown_table

PAGE = ROOT / "docs" / "ladder.md"
SEEDS = 3  # of the rungs whose differences are claimed


@dataclass(frozen=True)
class Rung:
    """One row of a table.

    Args:
        name: of its folder.
        says: what is different from `against`, for the table.
        against: the rung it is compared with.
        train: the experiment and what else train.py is told; None takes the model of `of`.
        of: the rung whose model is drawn with, or that is trained further.
        evaluate: how to draw and score, in place of `DRAW`.
        seeds: trainings, with samples of the same seed.
    """

    name: str
    says: str
    against: str | None = None
    train: str | None = None
    of: str | None = None
    evaluate: str = ""
    seeds: int = 1


BITS = "likelihood=300"
TABLES = {
    "The classical rungs": (
        Rung("base", "ε, linear schedule, no labels, no average (`base`)", None, "base"),
        Rung("improved", "attention only where there are few pixels, no padding (`improved`)", "base", "improved"),
        Rung("linear", "U-Net on 2×2 blocks of pixels, for all that follow", "improved", "improved +net", seeds=3),
        Rung("quadratic", "quadratic schedule", "linear", "improved +net schedule=quadratic"),
        Rung("sigmoid", "sigmoid schedule", "linear", "improved +net schedule=sigmoid"),
        Rung("cosine", "cosine schedule (`cosine`)", "linear", "cosine +net", seeds=3),
        Rung("labels", "labels, no guidance", "cosine", of="ema", evaluate="averaged=false guidance.scale=1", seeds=3),
        Rung("cfg", "classifier-free guidance, scale 2 (`cfg`)", "labels", of="ema", evaluate="averaged=false", seeds=3),
        Rung("ema", "averaged weights (`ema`)", "cfg", "ema +net", evaluate=BITS, seeds=3),
    ),
    "Objectives and networks": (
        Rung("v", "v-prediction (`v`)", "ema", "v +net", evaluate=BITS, seeds=3),
        Rung("x0", "x0-prediction (`x0`)", "ema", "x0 +net"),
        Rung("flow", "rectified flow, logit-normal times, Euler (`flow`)", "v", "flow +net", evaluate="sampler=euler", seeds=3),
        Rung("edm", "EDM, Heun on Karras's grid (`edm`)", "v", "edm +net", evaluate="sampler=edm sampler.steps=13"),
        Rung("dit", "a transformer (`dit`)", "ema", "dit +dit"),
    ),
    "Loss and noise levels in training": (
        Rung("loss_epsilon", "loss uniform in ε (`loss_epsilon`)", "v", "loss_epsilon +net"),
        Rung("min_snr", "min-SNR-5 (`min_snr`)", "v", "min_snr +net"),
        Rung("p2", "P2 (`p2`)", "v", "p2 +net"),
        Rung("stratified", "stratified times (`stratified`)", "v", "stratified +net"),
        Rung("logit_normal", "logit-normal times (`logit_normal`)", "v", "logit_normal +net"),
        Rung("loss_aware", "loss-aware times (`loss_aware`)", "v", "loss_aware +net"),
        Rung("linear_v", "linear schedule", "v", "v +net schedule=linear"),
        Rung("zero_snr", "linear schedule, zero terminal SNR (`zero_snr`)", "linear_v", "zero_snr +net"),
        Rung("ema_ancestral", "`ema`, ancestral sampling", "ema", of="ema", evaluate="sampler=ddpm"),
        Rung(
            "learned_variance",
            "`learned_variance`: loss with the bound, learned variance in sampling",
            "ema_ancestral",
            "learned_variance +net",
            evaluate=f"sampler=ddpm sampler.variance=learned {BITS}",
        ),
    ),
    "Averages, from the runs `ema` and `power_ema`": tuple(
        Rung(f"power_ema_{width}", f"power-function average of width {width}", "ema", of="power_ema", evaluate=f"ema_width={width}")
        for width in ("0.025", "0.05", "0.1", "0.2")
    ),
    "Samplers, from the run `v`": (
        Rung("ddpm_25", "DDPM, 25 steps", "v", of="v", evaluate="sampler=ddpm"),
        Rung("ddpm_100", "DDPM, 100 steps", "v", of="v", evaluate="sampler=ddpm sampler.steps=100"),
        Rung("ddim_100", "DDIM, 100 steps", "v", of="v", evaluate="sampler.steps=100"),
        Rung("ddim_10", "DDIM, 10 steps (`ddim`)", "v", of="v", evaluate="sampler.steps=10"),
        Rung("ddim_5", "DDIM, 5 steps", "ddim_10", of="v", evaluate="sampler.steps=5"),
        Rung("euler_10", "Euler, 10 steps", "ddim_10", of="v", evaluate="sampler=euler sampler.steps=10"),
        Rung("heun_5", "Heun, 5 steps (`heun`)", "ddim_10", of="v", evaluate="sampler=heun sampler.steps=5"),
        Rung("dpm_10", "DPM-Solver++(2M), 10 steps (`dpm_solver`)", "ddim_10", of="v", evaluate="sampler=dpm_solver sampler.steps=10"),
        Rung("unipc_10", "UniPC, 10 steps, clamped (`unipc`)", "ddim_10", of="v", evaluate="sampler=unipc sampler.clip=true sampler.steps=10"),
        Rung("unipc_5", "UniPC, 5 steps", "ddim_5", of="v", evaluate="sampler=unipc sampler.clip=true sampler.steps=5"),
        *(
            Rung(f"ddim_10_{grid}", f"DDIM, 10 steps, {grid} grid", "ddim_10", of="v", evaluate=f"sampler.steps=10 sampler.grid={grid}")
            for grid in ("quadratic", "karras", "log_snr")
        ),
    ),
    "Guidance, from the run `v`": (
        Rung("unguided", "scale 1", "v", of="v", evaluate="guidance.scale=1", seeds=3),
        Rung("scale_4", "scale 4", "v", of="v", evaluate="guidance.scale=4"),
        Rung("interval", "only at 0.3 < σ/α < 5 (`interval`)", "v", of="v", evaluate="guidance.interval=[0.3,5]"),
        Rung("rescale", "rescaled by 0.7 (`rescale`)", "v", of="v", evaluate="guidance.rescale=0.7"),
        Rung("plus_plus", "CFG++, scale 0.6 (`cfg_plus_plus`)", "v", of="v", evaluate="guidance.plus_plus=true guidance.scale=0.6"),
        Rung("autoguidance", "by a run an eighth as long, scale 2", "unguided", of="v", evaluate="guidance.weaker={weaker}"),
    ),
    "Few steps, from the run `v`": (
        *(
            Rung(f"ddim_{steps}", f"DDIM, {steps} step{'s' * (steps > 1)}, no guidance", "unguided", of="v",
                 evaluate=f"sampler.steps={steps} guidance.scale=1")
            for steps in (4, 2, 1)
        ),
        Rung("unipc_4", "UniPC, 4 steps, no guidance", "ddim_4", of="v", evaluate="sampler=unipc sampler.clip=true sampler.steps=4 guidance.scale=1"),
        *(
            Rung(f"consistency_{steps}", f"consistency tuning, {steps} step{'s' * (steps > 1)} (`consistency`)", f"ddim_{steps}",
                 of="consistency", evaluate=f"sampler=consistency sampler.steps={steps}")
            for steps in (4, 2, 1)
        ),
    ),
}  # fmt: skip
OTHERS = (  # trained, but no row of their own
    Rung("power_ema", "", train="power_ema +net"),
    Rung("weaker", "", train="v +net training.images={eighth}"),
    Rung("consistency", "", train="consistency checkpoint={v}"),
)
RUNGS = {rung.name: rung for rung in (*(rung for rows in TABLES.values() for rung in rows), *OTHERS)}
SCALES: dict[str, dict[str, Any]] = {
    "small": {
        "images": 25_600,
        "train": "training.batch_size=32 optimizer.lr=1e-3 device=cpu",
        "simple": "model.width=16 model.time_width=64",
        "net": "model=unet_tiny model.width=24",
        "dit": "model.width=64",
        "evaluate": "n=1000 device=cpu",
    },
    "full": {
        "images": 1_800_000,
        "train": "device=cuda",
        "simple": "",
        "net": "model=unet_small",
        "dit": "",
        "evaluate": "n=10000 device=cuda",
    },
    "minutes": {  # of benchmarks/gpu.py; 400 steps of the default batch size
        "images": 51_200,
        "train": "device=cuda training.checkpoint_every=0",
        "simple": "",
        "net": "model=unet_small",
        "dit": "",
        "evaluate": "n=5000 device=cuda",
    },
    "trial": {  # of benchmarks/gpu.py --small
        "images": 32,
        "train": "training.batch_size=8 device=cpu",
        "simple": "model.width=8 model.time_width=16",
        "net": "model=unet_tiny model.width=8 model.head_width=8 model.groups=4",
        "dit": "model.width=32",
        "evaluate": "n=60 device=cpu",
    },
}
DRAW = "sampler=ddim sampler.steps=25"


class Ladder:
    """The folder of one scale: models/NAME_SEED and scores/NAME_SEED."""

    def __init__(self, scale: str, folder: Path, threads: int, deadline: float | None = None) -> None:
        self.scale, self.settings, self.folder, self.threads = scale, SCALES[scale], folder / scale, threads
        self.deadline = deadline  # of time.perf_counter(), when processes are ended
        self.locks: defaultdict[tuple[str, int], Lock] = defaultdict(Lock)
        for part in ("models", "scores", "logs"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)

    def model(self, name: str, seed: int) -> Path:
        return self.folder / "models" / f"{name}_{seed}"

    def result(self, name: str, seed: int) -> Path:
        return self.folder / "scores" / f"{name}_{seed}" / "metrics.json"

    def call(self, name: str, script: str, *arguments: str) -> None:
        start, log = time.perf_counter(), self.folder / "logs" / f"{name}.log"
        left = None if self.deadline is None else max(self.deadline - start, 1)
        run(script, *arguments, log=log, threads=self.threads, seconds=left)
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)

    def train(self, rung: Rung, seed: int) -> None:
        """Train a rung, or go on with its training, unless that is done."""
        with self.locks[rung.name, seed]:
            self._train(rung, seed)

    def _train(self, rung: Rung, seed: int) -> None:
        folder, settings = self.model(rung.name, seed), self.settings
        if (folder / "metrics.json").exists() or rung.train is None:
            return
        if (folder / "last.pt").exists():
            self.call(f"train_{rung.name}_{seed}", "train.py", f"resume={folder}")
            return
        experiment, *rest = rung.train.format(v=self.model("v", seed), eighth=settings["images"] // 8).split()
        if rung.name != "consistency" and not any(word.startswith("+") for word in rest):
            rest.insert(0, "+simple")
        words = " ".join(str(settings[word[1:]]) if word.startswith("+") else word for word in rest).split()
        images = [] if "training.images" in rung.train else [f"training.images={settings['images']}"]
        quiet = ["score.n=0", "training.preview_every=0", "preview.steps=5", f"seed={seed}", f"hydra.run.dir={folder}"]
        common = settings["train"].split() if rung.name != "consistency" else [f"device={self.device}"]
        self.call(f"train_{rung.name}_{seed}", "train.py", f"experiment={experiment}", *words, *common, *images, *quiet)

    @property
    def device(self) -> str:
        return self.settings["train"].split("device=")[1].split()[0]

    def score(self, rung: Rung, seed: int) -> None:
        """Score a rung unless that is done."""
        if self.result(rung.name, seed).exists():
            return
        self.train(RUNGS[rung.of or rung.name], seed)  # nothing but a wait where another thread is at it
        own = rung.evaluate.format(weaker=self.model("weaker", 0)).split()
        chosen = {word.split("=")[0] for word in own}
        draw = [word for word in DRAW.split() if word.split("=")[0] not in chosen]
        model = self.model(rung.of or rung.name, seed)
        folder = self.result(rung.name, seed).parent
        given = [f"checkpoint={model}", *draw, *own, *str(self.settings["evaluate"]).split(), f"seed={seed}"]
        self.call(f"score_{rung.name}_{seed}", "evaluate.py", *given, f"hydra.run.dir={folder}")

    def run(self, names: Sequence[str], jobs: int) -> None:
        """Train and score rungs, those that others need first, and first one seed of each."""
        needed = set(names)
        for name in names:
            rung = RUNGS[name]
            needed |= {rung.of} if rung.of else set()
            needed |= {"weaker"} if "{weaker}" in rung.evaluate else set()
        needed |= {"v"} if "consistency" in needed else set()
        rungs = [rung for rung in RUNGS.values() if rung.name in needed]
        seeds = {rung.name: max(r.seeds for r in rungs if rung.name in (r.name, r.of)) for rung in rungs}
        work = [(rung, seed) for seed in range(SEEDS) for rung in rungs if seed < seeds[rung.name]]
        trainings = [(rung, seed) for rung, seed in work if rung.train]
        trainings.sort(key=lambda found: found[0].name == "consistency")  # the last, for it goes on from another
        scores = [(rung, seed) for rung, seed in work if rung.name in names and seed < rung.seeds]
        scores.sort(key=lambda found: found[0].name == "base")  # whose training takes the longest
        with ThreadPoolExecutor(jobs) as pool:
            futures = [pool.submit(self.train, rung, seed) for rung, seed in trainings]
            futures += [pool.submit(self.score, rung, seed) for rung, seed in scores]
        failed = [str(error) for future in futures if (error := future.exception()) is not None]
        if failed:
            raise SystemExit("\n".join(failed))

    # ------------------------------------------------------------------------------------------ tables

    def found(self, name: str) -> list[dict]:
        files = [self.result(name, seed) for seed in range(SEEDS)]
        return [json.loads(file.read_text()) for file in files if file.exists()]

    def table(self, rungs: Sequence[Rung]) -> str:
        heads = ["", "FID", "against", "FID there", "IS", "accuracy", "evaluations", "seeds", "verdict"]
        rows = []
        bits = any("likelihood" in scores for rung in rungs for scores in self.found(rung.name))
        for rung in rungs:
            scores = self.found(rung.name)
            if not scores:
                rows.append([rung.says, "not measured", *[""] * (len(heads) - 2)])
                continue
            before = self.found(rung.against) if rung.against else []
            if rung.of:  # of one and the same model, with the same noise
                before = before[: len(scores)]
            row = [
                rung.says,
                text([found["fid"] for found in scores], 3),
                f"`{rung.against}`" if rung.against else "",
                text([found["fid"] for found in before], 3) if before else "",
                text([found["inception_score"] for found in scores], 2),
                text([found["accuracy"] for found in scores if found.get("accuracy") is not None], 3),
                f"{scores[0]['settings']['evaluations']:.0f}",
                str(len(scores)),
                verdict([found["fid"] for found in scores], [found["fid"] for found in before]),
            ]
            rows.append(row)
        if bits:
            heads.append("bits/dim")
            for row, rung in zip(rows, rungs, strict=True):
                measured = [found["likelihood"] for found in self.found(rung.name) if "likelihood" in found]
                row.append(text([found["bits_per_dim"] for found in measured], 2))
        return markdown_table(
            heads, [[f"**{rung.name}**: {row[0]}", *row[1:]] for rung, row in zip(rungs, rows, strict=True)]
        )

    def text(self, names: Sequence[str] = ()) -> str:
        """The tables of this scale in Markdown: of these rungs, or all."""
        parts = []
        for title, rows in TABLES.items():
            chosen = [rung for rung in rows if not names or rung.name in names]
            parts += [f"### {title}\n\n{self.table(chosen)}\n"] if chosen else []
        some = next((scores for rung in RUNGS for scores in self.found(rung)), None)
        if some is None:
            parts = ["Not measured.\n"]
        else:
            real = some["real"]
            parts.insert(0, f"Real test images, as many: FID {real['fid']:.3f}, IS {real['inception_score']:.2f}, "
                            f"accuracy {real['accuracy']:.3f}.\n")  # fmt: skip
        return "\n".join(parts).rstrip()

    def write(self) -> None:
        """All tables of this scale, into the page."""
        if not fill(PAGE, self.scale, "benchmarks/ladder.py", self.text()):
            raise SystemExit(f"{PAGE} has no place for the tables of {self.scale}.")


def text(values: Sequence[float], digits: int) -> str:
    """A mean with its standard deviation, where there are several values."""
    if not values:
        return "–"
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{spread}"


def verdict(here: Sequence[float], there: Sequence[float]) -> str:
    """Whether a FID is better: claimed only where every seed of one is below every seed of the other, three of each."""
    if not there:
        return ""
    if abs(mean(here) - mean(there)) < 0.001 * mean(there):
        return "the same"
    if min(len(here), len(there)) < SEEDS:
        if len(there) == SEEDS and min(there) <= mean(here) <= max(there):
            return "within the spread, one seed"
        return f"{'lower' if mean(here) < mean(there) else 'higher'}, one seed"
    if max(here) < min(there) or max(there) < min(here):
        return "**helps**" if max(here) < min(there) else "**hurts**"
    return "no clear difference"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, default="small")
    parser.add_argument("--only", nargs="+", choices=[name for name in RUNGS if RUNGS[name] not in OTHERS])
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / "ladder")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--table", action="store_true", help="only write the tables")
    given = parser.parse_args()
    ladder = Ladder(given.scale, given.folder, given.threads)
    try:
        if not given.table:
            ladder.run(given.only or [name for name in RUNGS if RUNGS[name] not in OTHERS], given.jobs)
    finally:
        ladder.write()


if __name__ == "__main__":
    main()

"""What a training budget buys, here and with other projects' recipes: writes the tables of docs/performance.md.

python benchmarks/time_to_quality.py --only ours nanoflow         a minute of training each
python benchmarks/time_to_quality.py --budget 15min --n 1000      all contenders: hours
python benchmarks/time_to_quality.py --budget 15min --n 1000 --only ours nanoflow torchcfm --rounds 3
python benchmarks/time_to_quality.py --budget 15min --n 1000 --table    only write the tables, from what is there

Every contender trains on the full Fashion-MNIST for the budget, which starts when the data is in memory and counts the
slow first steps; then it draws n images with 20 network evaluations each (ours with 16), which evaluate.py scores. Ours
is what `OURS` says, the others (pip install -e ".[bench]") are in peers/. They go one after the other, in rounds
with seeds 0, 1, …; what is finished is not done again, so that the same command continues after a stop. Recipes that
learn with labels and those that do not have a table each; a contender that only draws otherwise ("_own") is not
trained anew.
"""

import argparse
import os
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import PAGE, ROOT, compose, fill, middle, read, run
from machine import name_of
from peers import COMMON, EVALUATIONS, LABELLED, PEERS, TRAINED_AS, UNLABELLED, Peer, make

from diffusion.config import trained
from diffusion.data.datasets import fashion_mnist
from diffusion.drawing.pictures import save_samples
from diffusion.evaluation.document import markdown_table
from diffusion.records import checkpoint
from diffusion.records.results import write_json
from diffusion.training.pacing import budget_seconds

OURS = {"ours": "experiment=best", "ours_unlabelled": "experiment=best guidance=none"}  # what train.py is told
QUIET = "score.n=0 training.preview_every=0 preview.steps=5"
CONTENDERS = (*OURS, "diffusers", "denoising_diffusion_pytorch", "smalldiffusion", *LABELLED)
TABLES = {"": (*OURS, *UNLABELLED), "_labelled": ("ours", *LABELLED)}  # part of the mark in the page → its rows


class Contest:
    """The folder of one budget. Of each contender and seed it holds

        run/ or weights.pt, training.json       after training
        samples_N.npz, drawing_N.json           after drawing N images
        score_N/metrics.json                    after scoring them

    After a change of `OURS` remove what it made.

    Args:
        folder: outputs/time_to_quality/BUDGET, or BUDGET_cuda.
        budget: as text.
        n: images that are scored.
        device: "cpu" or "cuda".
    """

    def __init__(self, folder: Path, budget: str, n: int, device: str) -> None:
        self.root, self.budget, self.n, self.device = folder, budget, n, torch.device(device)

    def folder(self, name: str, seed: int) -> Path:
        return self.root / f"{name}_{seed}"

    def records(self, name: str, seed: int) -> list[Path]:
        """What tells that training, drawing and scoring are done."""
        names = (f"drawing_{self.n}.json", f"score_{self.n}/metrics.json")
        return [self.trained(name, seed) / "training.json", *(self.folder(name, seed) / file for file in names)]

    def trained(self, name: str, seed: int) -> Path:
        """The folder with the training that a contender draws from."""
        return self.folder(TRAINED_AS.get(name, name), seed)

    # ---------------------------------------------------------------------------- stages, in a process of their own

    def train(self, name: str, seed: int) -> None:
        """Train from the beginning: half a budget would not be the same."""
        folder = self.folder(name, seed)
        if name in OURS:
            shutil.rmtree(folder / "run", ignore_errors=True)
            words = [*OURS[name].split(), *QUIET.split(), f"training.budget={self.budget}", f"seed={seed}"]
            words += [f"device={self.device.type}", f"hydra.run.dir={folder / 'run'}"]
            run("train.py", *words, log=folder / "train.log")
            state = checkpoint.load(folder / "run" / "last.pt")
            images, spent = state["step"] * state["config"]["training"]["batch_size"], state["seconds"]
            deviations: Sequence[str] = ()
        else:
            torch.manual_seed(seed)
            peer = make(name, self.device)
            images, spent = self.train_peer(peer, seed)
            torch.save(peer.network.state_dict(), folder / "weights.pt")
            deviations = peer.deviations
        write_json(folder / "training.json", {"images": images, "seconds": spent, "deviations": list(deviations)})

    def train_peer(self, peer: Peer, seed: int) -> tuple[int, float]:
        """Its steps until the budget is spent; images seen, and seconds with those of the last step."""
        data = peer.stream(fashion_mnist("data/fashion_mnist").train, seed)
        budget, spent, steps = budget_seconds(self.budget), 0.0, 0
        start = time.perf_counter()
        while spent < budget:
            peer.progress = spent / budget
            loss = float(peer.step(*next(data)))  # waits for the device, as the loops of the peers do
            steps += 1
            spent = time.perf_counter() - start
        print(f"{steps} steps, last loss {loss:.4f}")
        peer.finish()
        return steps * peer.batch_size, spent

    def draw(self, name: str, seed: int) -> None:
        """Draw with the averaged weights; the seconds do not count reading them."""
        trained_in, folder = self.trained(name, seed), self.folder(name, seed)
        drawing: Sequence[str] = ()
        if name in OURS:
            words = [f"checkpoint={trained_in / 'run'}", f"device={self.device.type}"]
            cfg = compose("sample", *words)
            model, state = trained.open_model(cfg)
            sampler, labels = trained.choose_sampler(cfg.sampler, state["config"]), model.labels(self.n)
            batch_size = model.device.images_at_once(cfg.batch_size)
            start = time.perf_counter()
            images = model.draw(sampler, self.n, labels, seed, batch_size)
            evaluations = model.evaluations
            if evaluations > EVALUATIONS:
                raise SystemExit(f"Ours takes {evaluations:g} network evaluations, not {EVALUATIONS}.")
        else:
            peer, weights = make(name, self.device), trained_in / "weights.pt"
            peer.network.load_state_dict(torch.load(weights, map_location=self.device, weights_only=True))
            torch.manual_seed(seed)
            start = time.perf_counter()
            images, labels = peer.sample(self.n)
            evaluations, drawing = peer.evaluations, peer.drawing
        spent = time.perf_counter() - start
        save_samples(folder / f"samples_{self.n}.npz", images, labels)
        record = {"seconds": spent, "evaluations": evaluations, "deviations": list(drawing)}
        write_json(folder / f"drawing_{self.n}.json", record)

    def score(self, name: str, seed: int) -> None:
        folder = self.folder(name, seed)
        words = [f"samples={folder / f'samples_{self.n}.npz'}", "data=fashion_mnist", f"device={self.device.type}"]
        run("evaluate.py", *words, f"hydra.run.dir={folder / f'score_{self.n}'}", log=folder / "score.log")

    def go_on(self, name: str, seed: int) -> None:
        """The stages that are not done yet."""
        for stage, record in zip(("train", "draw", "score"), self.records(name, seed), strict=True):
            if record.exists():
                continue
            start = time.perf_counter()
            if stage == "score":
                self.score(name, seed)
            else:
                who = TRAINED_AS.get(name, name) if stage == "train" else name
                words = ["--stage", stage, str(seed), "--only", who, "--budget", self.budget, "--n", str(self.n)]
                words += ["--device", self.device.type, "--folder", str(self.root.parent)]
                run("benchmarks/time_to_quality.py", *words, log=self.folder(who, seed) / f"{stage}.log")
            print(f"{name}, seed {seed}: {stage} took {time.perf_counter() - start:.0f} s", flush=True)

    # ------------------------------------------------------------------------------------------------- the table

    def found(self, name: str) -> list[tuple[Any, Any, Any]]:
        """What is finished of a contender: (training, drawing, scores) of every seed."""
        found = (re.fullmatch(rf"{name}_(\d+)", folder.name) for folder in self.root.glob("*"))
        files = [self.records(name, seed) for seed in sorted(int(match[1]) for match in found if match)]
        return [tuple(map(read, three)) for three in files if all(file.exists() for file in three)]

    def row(self, name: str, found: Sequence[tuple[Any, Any, Any]], ours: float | None) -> list[str]:
        """The cells of a contender: medians over its seeds.

        Args:
            name: of the contender.
            found: (training, drawing, scores) of every seed.
            ours: the FID that its own is divided by.
        """
        trainings, drawings, scores = zip(*found, strict=True)
        fids = [each["fid"] for each in scores]
        return [
            f"**{name}**" if name in OURS else name,
            middle([each["images"] for each in trainings]),
            middle([each["images"] / each["seconds"] for each in trainings], 1),
            f"{median(each['evaluations'] for each in drawings):,.0f}",
            middle(fids, 3),
            f"{median(fids) / ours:.1f}" if ours else "–",
            middle([each["real"]["fid"] for each in scores], 3),
            middle([each["inception_score"] for each in scores], 2),
            middle([each.get("accuracy") for each in scores], 3),
            middle([each["seconds"] for each in drawings], 1),
        ]

    def table(self, names: Sequence[str]) -> str:
        """What is finished of these contenders, in Markdown; "" if that is nothing but ours."""
        heads = ["", "images seen", "images/s", "evaluations", "FID", "÷ ours", "FID, real images", "IS", "accuracy"]
        contenders = {name: found for name in names if (found := self.found(name))}
        if not contenders.keys() - OURS.keys():
            return ""
        ours = median(scores["fid"] for *_, scores in contenders["ours"]) if "ours" in contenders else None
        rows = [self.row(name, found, ours) for name, found in contenders.items()]
        notes = []
        for name, [(training, drawing, _), *_] in contenders.items():
            words = [*training["deviations"], *drawing.get("deviations", [])]
            notes += [f"- {name}: {'; '.join(words)}."] if words else []
        table = markdown_table([*heads, "seconds to draw"], rows)
        threads = f", {torch.get_num_threads()} CPU threads" if self.device.type == "cpu" else ""
        told = [f"`train.py {OURS[name]} training.budget={self.budget}`" for name in contenders if name in OURS]
        head = (
            f"{self.budget} of training on {name_of(self.device)}{threads}; {self.n:,} images each; medians of up to "
            f"{max(map(len, contenders.values()))} trainings (lowest – highest). "
            f"Ours: {' and '.join(told) or 'not run'}, drawn as it is set there."
        )
        left = ["How the others differ from what their projects ship:", "", f"- all: {'; '.join(COMMON)}.", *notes]
        return "\n".join([head, "", table, *(["", *left] if notes else [])])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", default="1min", help="of training, for example 90s, 15min or 1h")
    parser.add_argument("--n", type=int, default=200, help="images that are drawn and scored")
    parser.add_argument("--only", nargs="+", choices=[*OURS, *PEERS], default=CONTENDERS)
    parser.add_argument("--rounds", type=int, default=1, help="trainings of each contender")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / "time_to_quality")
    parser.add_argument("--table", action="store_true", help="only write the tables")
    parser.add_argument("--stage", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    try:
        budget_seconds(given.budget)
    except ValueError as error:
        parser.error(f"--{error}")
    suffix = "_cuda" if given.device == "cuda" else ""
    contest = Contest(given.folder.resolve() / f"{given.budget}{suffix}", given.budget, given.n, given.device)
    if given.stage:
        getattr(contest, given.stage[0])(given.only[0], int(given.stage[1]))
        return
    for seed in range(0 if given.table else given.rounds):
        for name in given.only:
            contest.go_on(name, seed)
    write_json(contest.root / f"table_{given.n}.json", {name: contest.found(name) for name in (*OURS, *PEERS)})
    for kind, names in TABLES.items():
        text, mark = contest.table(names), f"time_to_quality{kind}_{given.budget}{suffix}"
        if text:
            print(f"{text}\n")
            if not fill(PAGE, mark, "benchmarks/time_to_quality.py", text):
                print(f"{os.path.relpath(PAGE)} has no place for this table, which would be <!-- {mark}: … -->.\n")


if __name__ == "__main__":
    main()

"""What a training budget buys, here and with other projects' recipes: writes the table of docs/performance.md.

python benchmarks/time_to_quality.py                              a minute of training each, about 15 minutes in all
python benchmarks/time_to_quality.py --budget 15min --n 1000      about an hour and a half on two cores
python benchmarks/time_to_quality.py --budget 15min --n 1000 --only ours diffusers_decay --rounds 3
python benchmarks/time_to_quality.py --budget 15min --n 1000 --table    only write the table, from what is there

Every contender trains on the full Fashion-MNIST for the budget, which starts when the data is in memory and counts the
slow first steps; then it draws n images with 20 network evaluations each, which evaluate.py scores. Ours is what
`TRAIN` says, the others (pip install -e ".[bench]") are in peers.py. They go one after the other, in rounds
with seeds 0, 1, …; what is finished is not done again, so that the same command continues after a stop.
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
from peers import COMMON, EVALUATIONS, PEERS, Peer, make

from diffusion.config import trained
from diffusion.data.datasets import fashion_mnist
from diffusion.data.images import batches
from diffusion.drawing.pictures import save_samples
from diffusion.evaluation.document import markdown_table
from diffusion.records import checkpoint
from diffusion.records.results import write_json
from diffusion.training.pacing import budget_seconds

TRAIN = "experiment=best"
QUIET = "score.n=0 training.preview_every=0 preview.steps=5"
CONTENDERS = ("ours", "diffusers", "denoising_diffusion_pytorch", "smalldiffusion")


class Contest:
    """The folder of one budget. Of each contender and seed it holds

        run/ or weights.pt, training.json       after training
        samples_N.npz, drawing_N.json           after drawing N images
        score_N/metrics.json                    after scoring them

    After a change of `TRAIN` remove what it made.

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
        names = ("training.json", f"drawing_{self.n}.json", f"score_{self.n}/metrics.json")
        return [self.folder(name, seed) / file for file in names]

    # ---------------------------------------------------------------------------- stages, in a process of their own

    def train(self, name: str, seed: int) -> None:
        """Train from the beginning: half a budget would not be the same."""
        folder = self.folder(name, seed)
        if name == "ours":
            shutil.rmtree(folder / "run", ignore_errors=True)
            words = [*TRAIN.split(), *QUIET.split(), f"training.budget={self.budget}", f"device={self.device.type}"]
            run("train.py", *words, f"seed={seed}", f"hydra.run.dir={folder / 'run'}", log=folder / "train.log")
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
        data = batches(fashion_mnist("data/fashion_mnist").train, peer.batch_size, seed, 0, self.device)
        budget, spent, steps = budget_seconds(self.budget), 0.0, 0
        start = time.perf_counter()
        while spent < budget:
            peer.progress = spent / budget
            loss = float(peer.step(next(data)[0]))  # waits for the device, as the loops of the peers do
            steps += 1
            spent = time.perf_counter() - start
        print(f"{steps} steps, last loss {loss:.4f}")
        peer.finish()
        return steps * peer.batch_size, spent

    def draw(self, name: str, seed: int) -> None:
        """Draw with the averaged weights; the seconds do not count reading them."""
        folder, labels = self.folder(name, seed), None
        if name == "ours":
            words = [f"checkpoint={folder / 'run'}", f"device={self.device.type}"]
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
            peer, evaluations = make(name, self.device), EVALUATIONS
            peer.network.load_state_dict(torch.load(folder / "weights.pt", map_location=self.device, weights_only=True))
            torch.manual_seed(seed)
            start = time.perf_counter()
            images = peer.sample(self.n)
        spent = time.perf_counter() - start
        save_samples(folder / f"samples_{self.n}.npz", images, labels)
        write_json(folder / f"drawing_{self.n}.json", {"seconds": spent, "evaluations": evaluations})

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
                words = ["--stage", stage, str(seed), "--only", name, "--budget", self.budget, "--n", str(self.n)]
                words += ["--device", self.device.type, "--folder", str(self.root.parent)]
                run("benchmarks/time_to_quality.py", *words, log=self.folder(name, seed) / f"{stage}.log")
            print(f"{name}, seed {seed}: {stage} took {time.perf_counter() - start:.0f} s", flush=True)

    # ------------------------------------------------------------------------------------------------- the table

    def found(self, name: str) -> list[tuple[Any, Any, Any]]:
        """What is finished of a contender: (training, drawing, scores) of every seed."""
        found = (re.fullmatch(rf"{name}_(\d+)", folder.name) for folder in self.root.glob("*"))
        files = [self.records(name, seed) for seed in sorted(int(match[1]) for match in found if match)]
        return [tuple(map(read, three)) for three in files if all(file.exists() for file in three)]

    def table(self) -> str:
        """All that is finished, in Markdown: medians over the seeds."""
        heads = ["", "images seen", "images/s", "evaluations", "FID", "÷ ours", "FID, real images", "IS", "accuracy"]
        rows, notes = [], []
        ours = [scores["fid"] for _, _, scores in self.found("ours")]
        for name in ("ours", *PEERS):
            found = self.found(name)
            if not found:
                continue
            trainings, drawings, scores = zip(*found, strict=True)
            fids = [each["fid"] for each in scores]
            rows.append(
                [
                    f"**{name}**" if name == "ours" else name,
                    middle([each["images"] for each in trainings]),
                    middle([each["images"] / each["seconds"] for each in trainings], 1),
                    f"{drawings[0]['evaluations']:g}",
                    middle(fids, 3),
                    f"{median(fids) / median(ours):.1f}" if ours else "–",
                    middle([each["real"]["fid"] for each in scores], 3),
                    middle([each["inception_score"] for each in scores], 2),
                    middle([each.get("accuracy") for each in scores], 3),
                    middle([each["seconds"] for each in drawings], 1),
                ]
            )
            notes += [f"- {name}: {'; '.join(trainings[0]['deviations'])}."] if trainings[0]["deviations"] else []
        table = markdown_table([*heads, "seconds to draw"], rows)
        threads = f", {torch.get_num_threads()} CPU threads" if self.device.type == "cpu" else ""
        head = (
            f"{self.budget} of training on {name_of(self.device)}{threads}; {self.n:,} images each. "
            f"Ours: `train.py {TRAIN} training.budget={self.budget}`, drawn as it is set there."
        )
        left = ["How the others differ from what their projects ship:", "", f"- all: {'; '.join(COMMON)}.", *notes]
        return "\n".join([head, "", table, *(["", *left] if notes else [])])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", default="1min", help="of training, for example 90s, 15min or 1h")
    parser.add_argument("--n", type=int, default=200, help="images that are drawn and scored")
    parser.add_argument("--only", nargs="+", choices=["ours", *PEERS], default=CONTENDERS)
    parser.add_argument("--rounds", type=int, default=1, help="trainings of each contender")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / "time_to_quality")
    parser.add_argument("--table", action="store_true", help="only write the table")
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
    text = contest.table()
    print(text)
    write_json(contest.root / f"table_{given.n}.json", {name: contest.found(name) for name in ("ours", *PEERS)})
    if not fill(PAGE, f"time_to_quality{suffix}", "benchmarks/time_to_quality.py", text):
        print(f"{os.path.relpath(PAGE)} has no place for this table.")


if __name__ == "__main__":
    main()

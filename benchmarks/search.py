"""Which shape and recipe gives the best FID for its seconds of training: a study by Hydra's multirun and Optuna.

    python benchmarks/search.py                     24 trials of a minute each on the full Fashion-MNIST, 40 minutes
    python benchmarks/search.py --confirm 4min      the best three of that study again, for longer
    python benchmarks/search.py --table             only the table of the study, into docs/performance.md

Each trial is a run of `train.py` with its length given in time, so that a wider network has to pay for itself. Needs
the extra "search" (Optuna), and a machine on which nothing else runs.
"""

import argparse
import csv
import subprocess
import sys
from pathlib import Path

from common import PAGE, ROOT, fill, read

from diffusion.evaluation.document import markdown_table

SPACE = (
    "model.width=choice(24,32,48,64)",
    "model.multipliers=choice([1,2],[1,2,2],[1,3])",
    "model.blocks=choice(1,2)",
    "model.attention=choice([],[1])",  # also where the grid is halved; the middle always has one
    "training.batch_size=choice(16,32,64,128)",
    "optimizer.lr=tag(log,interval(1e-3,1.2e-2))",
    "schedule=choice(cosine,flow)",
    "timesteps=choice(uniform,logit_normal)",
    "guidance.dropout=choice(0.1,0.2)",
)
BASE = (  # what all trials share; v-prediction goes with both schedules
    "~experiment data=fashion_mnist model=unet_light objective=v optimizer=muon guidance.scale=1.5 sampler=unipc "
    "sampler.steps=10 sampler@preview=unipc preview.steps=10 ema=power ema.width=0.05 ema.widths=[] "
    "training.preview_every=0 score.held_out=0"
).split()
NAMES = [word.split("=")[0] for word in SPACE]


def study(folder: Path, trials: int, budget: str, n: int) -> None:
    """The sweep; its leaderboard is in the folder."""
    if folder.exists():
        raise SystemExit(f"{folder} holds a study already: choose another --folder, or remove it.")
    sweeper = ["hydra/sweeper=optuna", "hydra.sweeper.direction=minimize", "hydra.sweeper.n_jobs=1"]
    sweeper += [f"hydra.sweeper.n_trials={trials}", "hydra.sweeper.max_failure_rate=0.2"]
    sweeper += ["hydra/sweeper/sampler=tpe", "hydra.sweeper.sampler.seed=0", f"hydra.sweep.dir={folder}"]
    words = [*BASE, f"training.budget={budget}", f"score.n={n}"]
    subprocess.run([sys.executable, "train.py", "-m", *sweeper, *words, *SPACE], cwd=ROOT, check=True)


def chosen(folder: Path) -> list[tuple[float, dict[str, str]]]:
    """FID and what was chosen, of each finished trial, best first."""
    found = []
    with open(folder / "leaderboard.csv", newline="") as file:
        for row in csv.DictReader(file):
            if row["fid"]:
                pairs = dict(word.split("=", 1) for word in row["overrides"].replace(", ", ",").split() if "=" in word)
                found.append((float(row["fid"]), {name: pairs[name] for name in NAMES if name in pairs}))
    return sorted(found, key=lambda trial: trial[0])


def confirmed(folder: Path) -> list[str]:
    """A line for each longer run of one of the best."""
    lines = []
    for path in sorted(folder.glob("confirmed/*/*/metrics.json")):
        metrics = read(path)
        rank, budget = path.parent.name, path.parent.parent.name
        lines.append(f"- number {rank}, {budget}: FID {metrics['fid']:.2f}, accuracy {metrics['accuracy']:.3f}")
    return lines


def confirm(folder: Path, best: int, budget: str, n: int) -> None:
    """The best trials again, one after another, each with a longer budget."""
    for rank, (_, choice) in enumerate(chosen(folder)[:best], start=1):
        words = [f"{name}={value}" for name, value in choice.items()]
        words += [*BASE, f"training.budget={budget}", f"score.n={n}"]
        target = f"hydra.run.dir={folder / 'confirmed' / budget / str(rank)}"
        subprocess.run([sys.executable, "train.py", *words, target], cwd=ROOT, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / "search")
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--budget", default="60s", help="training time of a trial")
    parser.add_argument("--confirm", metavar="BUDGET", help="run the best again with this training time")
    parser.add_argument("--best", type=int, default=3, help="how many to confirm")
    parser.add_argument("--n", type=int, default=1000, help="images that are scored")
    parser.add_argument("--table", action="store_true", help="only write the table")
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    if asked.confirm:
        confirm(folder, asked.best, asked.confirm, asked.n)
    elif not asked.table:
        study(folder, asked.trials, asked.budget, asked.n)
    text = "\n".join([table(folder), *confirmed(folder)])
    print(text)
    if asked.table:
        fill(PAGE, "search", "benchmarks/search.py", text)


def table(folder: Path) -> str:
    """All trials, best first."""
    rows = []
    for fid, choice in chosen(folder):
        choice["optimizer.lr"] = f"{float(choice['optimizer.lr']):.4f}"
        rows.append([f"{fid:.2f}", *(choice[name] for name in NAMES)])
    return markdown_table(["FID", *(f"`{name}`" for name in NAMES)], rows) + "\n"


if __name__ == "__main__":
    main()

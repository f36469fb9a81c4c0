"""What several processes and several jobs cost: torchrun on this machine's cores, and each launcher of sweeps.

    python benchmarks/ranks.py                  about ten minutes on two cores; writes the tables of docs/scaling.md
    python benchmarks/ranks.py --rounds 5

Training is `train.py` with one thread for each process, so that a second process adds a second core: the speed is what
TensorBoard shows. A sweep is of eight jobs that train for one step: what is left is the cost of a job itself.
"""

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch
from common import ROOT, fill, middle
from machine import name_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from diffusion.evaluation.document import markdown_table
from diffusion.records.results import write_json

PAGE = ROOT / "docs" / "scaling.md"
TRAINING = "training.preview_every=0 training.checkpoint_every=0 score.n=0 score.held_out=0 preview.steps=1 device=cpu"
CASES = {  # name → processes, threads of each, batch size
    "1 process, batch 32": (1, 1, 32),
    "1 process, batch 64": (1, 1, 64),
    "2 processes, batch 64": (2, 1, 64),
    "1 process of 2 threads, batch 64": (1, 2, 64),
}
LAUNCHERS = {
    "one after the other": ("", None),
    "`launch=joblib`, two at once": ("launch=joblib", "hydra_joblib_launcher"),
    "`launch=submitit`, all at once": ("launch=submitit", "hydra_submitit_launcher"),
    "`launch=ray`, two at once": ("launch=ray", "hydra_ray_launcher"),
}
JOBS = 8


def speed(processes: int, threads: int, batch: int, steps: int, folder: Path) -> float:
    """Images per second of a training: the median over its logs but the first."""
    shutil.rmtree(folder, ignore_errors=True)
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    words = [*TRAINING.split(), f"training.batch_size={batch}", f"training.steps={steps}", "training.log_every=20"]
    words += [f"device.threads={threads}", f"hydra.run.dir={folder}"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TQDM_DISABLE": "1"}
    subprocess.run([sys.executable, *torchrun, "train.py", *words], cwd=ROOT, check=True, env=environment)
    events = EventAccumulator(str(folder)).Reload()
    return median([event.value for event in events.Scalars("train/images_per_second")][1:])


def sweep_seconds(words: str, folder: Path) -> float:
    """Seconds of a sweep, for each of its jobs."""
    shutil.rmtree(folder, ignore_errors=True)
    settings = [*TRAINING.split(), "training.steps=1", "training.batch_size=2", "model.width=8", "model.groups=4"]
    settings += ["model.head_width=8", f"seed={','.join(map(str, range(JOBS)))}", f"hydra.sweep.dir={folder}"]
    began = time.perf_counter()
    subprocess.run([sys.executable, "train.py", "-m", *words.split(), *settings], cwd=ROOT, check=True)
    return (time.perf_counter() - began) / JOBS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / "benchmarks" / "ranks")
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    launchers = {
        name: words
        for name, (words, plugin) in LAUNCHERS.items()
        if plugin is None
        or (importlib.util.find_spec("hydra_plugins") and importlib.util.find_spec(f"hydra_plugins.{plugin}"))
    }
    speeds: dict[str, list[float]] = {name: [] for name in CASES}
    seconds: dict[str, list[float]] = {name: [] for name in launchers}
    for _ in range(asked.rounds):
        for name, (processes, threads, batch) in CASES.items():
            speeds[name].append(speed(processes, threads, batch, asked.steps, folder / "run"))
        for name, words in launchers.items():
            seconds[name].append(sweep_seconds(words, folder / "sweep"))
        write_json(folder / "ranks.json", {"speeds": speeds, "seconds": seconds})
    first = median(next(iter(speeds.values())))
    rows = [[name, middle(values, 1), f"{median(values) / first:.2f}"] for name, values in speeds.items()]
    text = f"{name_of(torch.device('cpu'))}, {os.cpu_count()} cores; medians of {asked.rounds} (lowest – highest).\n\n"
    text += markdown_table(["training", "images/s", "÷ the first row"], rows)
    text += "\n\n" + markdown_table(
        [f"a sweep of {JOBS} jobs of one step", "seconds per job"],
        [[name, middle(values, 2)] for name, values in seconds.items()],
    )
    print(text)
    fill(PAGE, "ranks", "benchmarks/ranks.py", text)


if __name__ == "__main__":
    main()

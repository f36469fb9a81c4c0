"""Memory and disk over a long run: 20,000 steps of a tiny network, scored 200 times.

    python benchmarks/long_run.py               about ten minutes on two cores; writes the table of docs/scaling.md
    python benchmarks/long_run.py --steps 2000

Once a second this reads how much memory `train.py` has resident and how much its folder holds. Needs psutil, which is
part of the extra "test".
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import psutil
import torch
from common import ROOT, fill
from machine import name_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from diffusion.evaluation.document import markdown_table

PAGE = ROOT / "docs" / "scaling.md"
TRAINING = (
    "model.width=8 model.groups=4 model.head_width=8 training.batch_size=8 training.budget=null "
    "training.log_every=20 training.preview_every=100 training.checkpoint_every=100 preview.steps=2 score.n=50 "
    "score.held_out=50 device=cpu"
).split()
PARTS = 5  # rows of the table


def watch(steps: int, folder: Path) -> list[tuple[float, float, float, int]]:
    """(seconds, MiB of memory, MiB of the folder, files in it) once a second, of a training."""
    words = [*TRAINING, f"training.steps={steps}", f"training.evaluate_every={steps // 200}", f"hydra.run.dir={folder}"]
    began, found = time.perf_counter(), []
    with open(folder.with_suffix(".log"), "w") as log:
        child = subprocess.Popen([sys.executable, "train.py", *words], cwd=ROOT, stdout=log, stderr=log)
        process = psutil.Process(child.pid)
        while child.poll() is None:
            time.sleep(1)
            try:
                memory = process.memory_info().rss / 2**20
                sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
            except (psutil.NoSuchProcess, FileNotFoundError):  # it has ended, or a file has just got its name
                continue
            found.append((time.perf_counter() - began, memory, sum(sizes) / 2**20, len(sizes)))
    if child.returncode:
        raise SystemExit(f"train.py failed: see {folder.with_suffix('.log')}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / "benchmarks" / "long_run")
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    seen = watch(asked.steps, folder)
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    scored, logged = events.Scalars("score/fid"), events.Scalars("train/loss")
    started = events.FirstEventTimestamp()
    times = {event.step: event.wall_time - started for event in logged}
    offset = seen[-1][0] - (scored[-1].wall_time - started)  # of the events' clock from ours
    rows = []
    for part in range(PARTS):
        steps = asked.steps * part // PARTS, asked.steps * (part + 1) // PARTS
        bounds = [offset + (times[step] if step else 0.0) for step in steps]
        within = [row for row in seen if bounds[0] <= row[0] <= bounds[1]]
        memory = [row[1] for row in within]
        rows.append(
            [
                f"{steps[0]:,} – {steps[1]:,}",
                f"{median(memory):.0f} ({min(memory):.0f} – {max(memory):.0f})",
                f"{within[-1][2]:.1f}",
                str(within[-1][3]),
            ]
        )
    text = f"{name_of(torch.device('cpu'))}, {os.cpu_count()} cores; {logged[-1].step:,} steps of a tiny network, "
    text += f"scored {len(scored)} times, {seen[-1][0]:.0f} s.\n\n"
    text += markdown_table(["steps", "memory, MiB: median (lowest – highest)", "folder, MiB", "files"], rows)
    print(text)
    fill(PAGE, "long run", "benchmarks/long_run.py", text)


if __name__ == "__main__":
    main()

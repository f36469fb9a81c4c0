"""What busy neighbours cost: training images/s free and beside one, two, three busy processes; for docs/performance.md.

python benchmarks/busy.py              the quickstart, seven minutes
python benchmarks/busy.py --rounds 1 --words experiment=best model.width=64 training.images=196_480

"PyTorch's threads" are as many as there are cores, which spin while they wait; "chosen" is what train.py does: threads
that wait go to sleep after a short while (`diffusion/system/threads.py`), and as many of them as a short measurement
finds fastest. Every measurement has a process of its own, and the two take turns.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from common import PAGE, fill, middle

from diffusion.evaluation.document import markdown_table
from diffusion.system.threads import wait_asleep

KINDS = {"PyTorch's threads": "as_pytorch", "chosen": "chosen"}


def measure(kind: str, words: list[str], seconds: float) -> None:
    """In a process of its own: print images/s of the training step, and on how many threads."""
    if kind == "chosen":
        wait_asleep()  # before PyTorch is imported
    import torch
    from machine import rate
    from throughput import our_trainer, our_work

    with tempfile.TemporaryDirectory() as folder:
        trainer = our_trainer(words, torch.device("cpu"), Path(folder))
        if kind == "chosen":
            from diffusion.training.threads import choose

            choose(trainer.parts, trainer.plan.batch_size, 10**9)
        work = our_work(trainer)
        work.network.train()
        speed = work.batch_size * rate(work.step, seconds, torch.device("cpu"))
        print(json.dumps([speed, torch.get_num_threads()]))


def beside(neighbours: int, kind: str, words: list[str], seconds: float) -> tuple[float, int]:
    """Images/s and threads beside so many processes that do nothing but count."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(neighbours)]
    names = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    env = {name: value for name, value in os.environ.items() if name not in names}
    command = [sys.executable, __file__, "--one", kind, "--seconds", str(seconds), "--words", *words]
    try:
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    speed, threads = json.loads(done.stdout.strip().rpartition("\n")[2])
    return speed, threads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--most", type=int, default=3, help="busy processes")
    parser.add_argument("--words", nargs="*", default=[], help="what train.py is told")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        measure(given.one, given.words, given.seconds)
        return
    found: dict[tuple[int, str], list[tuple[float, int]]] = {}
    for _ in range(given.rounds):
        for neighbours in range(given.most + 1):
            for name, kind in KINDS.items():
                one = beside(neighbours, kind, given.words, given.seconds)
                found.setdefault((neighbours, name), []).append(one)
                print(neighbours, name, *one, flush=True)
    rows = []
    for neighbours in range(given.most + 1):
        cells = [str(neighbours) if neighbours else "none"]
        for name in KINDS:
            several = found[neighbours, name]
            cells.append(middle([speed for speed, _ in several]))
        cells.append(", ".join(str(threads) for _, threads in found[neighbours, "chosen"]))
        rows.append(cells)
    header = ["busy processes", *(f"{name}: images/s" for name in KINDS), "threads chosen"]
    text = f"{os.cpu_count()} cores; medians of {given.rounds} (lowest – highest).\n\n{markdown_table(header, rows)}"
    print(text)
    fill(PAGE, "busy", "benchmarks/busy.py", text)


if __name__ == "__main__":
    main()

"""Kills training at many moments, each time in a folder of its own, and starts the same command again.

python tests/scripts/kills.py FOLDER            prints one JSON line per kill

This process imports everything once and forks, so that a start takes a second instead of several. It must not compute
anything itself before it forks: threads do not survive that.
"""

import io
import json
import os
import runpy
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

import diffusion.config.build
import diffusion.evaluation.report
import diffusion.model  # noqa: F401

ROOT = Path(__file__).parents[2]
MOMENTS = 24
COMMAND = (
    "model.width=8 model.groups=4 model.head_width=8 training.batch_size=8 training.images=320 training.budget=null "
    "training.log_every=5 training.checkpoint_every=3 training.preview_every=0 score.held_out=0 score.n=0 "
    "preview.steps=1 device=cpu device.precision=fp32 device.threads=1"
).split()


def start(home: Path, name: str, before: Callable[[], None] = lambda: None) -> int:
    """Begin `python train.py …` in the folder `name` of `home`, in a child; its process number."""
    child = os.fork()
    if child:
        return child
    try:
        os.chdir(home)
        output = os.open(f"{name}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.argv = [str(ROOT / "train.py"), *COMMAND, f"hydra.run.dir={name}"]
        before()
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    finally:
        sys.stdout.flush()
        os._exit(code)


def end(child: int) -> int:
    """Wait for a child; its exit code, negative after a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_the_middle_of(write: int) -> Callable[[], None]:
    """A death with half of checkpoint number `write` on the disk."""

    def arrange() -> None:
        save, seen = torch.save, [0]

        def half(state, file):
            seen[0] += 1
            whole = io.BytesIO()
            save(state, whole)
            content = whole.getvalue()
            file.write(content[: len(content) // 2] if seen[0] == write else content)
            if seen[0] == write:
                file.flush()
                die()

        torch.save = half

    return arrange


def instead_of_replacing(write: int) -> None:
    """A death when checkpoint number `write` is whole, but does not yet have its name."""
    replace, seen = Path.replace, [0]

    def dying(path, target):
        seen[0] += target.name == "last.pt"
        if target.name == "last.pt" and seen[0] == write:
            die()
        return replace(path, target)

    Path.replace = dying


def while_keeping(write: int) -> None:
    """A death when the checkpoint before number `write` is kept under two names, but not yet under its own."""
    link, seen = os.link, [0]

    def dying(path, target):
        link(path, target)
        seen[0] += 1
        if seen[0] == write:
            die()

    os.link = dying


FORCED = {
    "writing the first checkpoint": in_the_middle_of(1),
    "writing the second checkpoint": in_the_middle_of(2),
    "writing the tenth checkpoint": in_the_middle_of(10),
    "keeping the one before the fifth": lambda: while_keeping(4),
    "before the third gets its name": lambda: instead_of_replacing(3),
    "before the last gets its name": lambda: instead_of_replacing(14),
}


def main(home: Path) -> None:
    for name in ("cold", "whole"):
        began = time.monotonic()
        assert end(start(home, name)) == 0, (home / f"{name}.txt").read_text()
    duration = time.monotonic() - began
    trials = [(f"after {duration * (k + 1) / (MOMENTS + 1):.2f} s", None) for k in range(MOMENTS)]
    for number, (moment, arrange) in enumerate([*trials, *FORCED.items()]):
        name = f"cut{number}"
        child = start(home, name, arrange or (lambda: None))
        if arrange is None:
            time.sleep(duration * (number + 1) / (MOMENTS + 1))
            os.kill(child, signal.SIGKILL)
        killed = end(child)
        left = sorted(path.name for path in (home / name).glob("[a-z]*.pt"))  # not what was half written
        (home / f"{name}.left").mkdir()
        for file in left:
            shutil.copy(home / name / file, home / f"{name}.left")
        again = end(start(home, name))
        print(json.dumps({"name": name, "moment": moment, "killed": killed, "left": left, "again": again}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

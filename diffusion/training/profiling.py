"""Where the time of a training step goes: a trace of a few steps, by PyTorch's profiler."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

log = logging.getLogger("diffusion")
SKIPPED = 5  # first steps, which allocate memory, compile and choose kernels


@contextmanager
def profiling(steps: int, folder: Path, device: torch.device) -> Iterator[Callable[[], None]]:
    """Record some steps of a loop; the loop calls what it is given after each of its steps.

    Writes two files when that many steps are done: `trace.json`, to look at in https://ui.perfetto.dev, and
    `profile.txt`, the operations by the time that they take themselves.

    Args:
        steps: number of steps to record, after `SKIPPED` and one to warm up; 0 records nothing and costs nothing.
        folder: for the files.
        device: where the loop computes.
    """
    if not steps:
        yield lambda: None
        return
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    key = f"self_{'cuda' if device.type == 'cuda' else 'cpu'}_time_total"

    def write(found: profile) -> None:
        recorded = min(steps, found.step_num - SKIPPED - 1)
        if recorded < 1:
            return
        found.export_chrome_trace(str(folder / "trace.json"))
        table = found.key_averages().table(sort_by=key, row_limit=40, max_name_column_width=60)
        (folder / "profile.txt").write_text(table, encoding="utf-8")
        log.info("The profile of %d steps: %s and %s", recorded, folder / "profile.txt", folder / "trace.json")

    plan = schedule(skip_first=SKIPPED, wait=0, warmup=1, active=steps, repeat=1)
    with profile(activities=activities, schedule=plan, on_trace_ready=write) as found:
        yield found.step
    if found.step_num <= SKIPPED + 1:
        short = "training.profile=%d: a run of %d steps is too short; the first %d are left out."
        log.warning(short, steps, found.step_num, SKIPPED + 1)

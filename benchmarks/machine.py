"""What a machine does and takes: speed of some work, of a product of matrices, peak memory."""

import platform
import re
import resource
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

SIDE = 2048
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
# TFLOP/s of dense matrix products in bf16 by NVIDIA's data sheets, the first whose words are all in a card's name.
PEAKS = {
    "H200": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "RTX 4090": 165,
    "L4": 121,
    "T4": 65,  # in fp16: it has no units for bf16
}


def rate(work: Callable[[], object], seconds: float, device: torch.device) -> float:
    """How often a second something can be done, after a warm-up of a quarter of the time or of one call."""
    times = []
    for limit in (seconds / 4, seconds):
        synchronise(device)
        start, count = time.perf_counter(), 0
        while count == 0 or time.perf_counter() - start < limit:
            work()
            count += 1
        synchronise(device)
        times.append((time.perf_counter() - start) / count)
    return 1 / times[-1]


def matrix_rate(kind: torch.dtype, device: torch.device) -> float:
    """GFLOP/s of a product of two square matrices, the median of five."""
    a, b = (torch.randn(SIDE, SIDE, device=device).to(kind) for _ in range(2))
    times = []
    for _ in range(6):
        synchronise(device)
        start = time.perf_counter()
        a @ b
        synchronise(device)
        times.append(time.perf_counter() - start)
    return 2 * SIDE**3 / median(times[1:]) / 1e9


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> float:
    """MiB: what tensors took at most on a GPU, what this process took at most on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    own = highest_memory("self")
    if own:  # getrusage would count what the parent took before it started this process
        return own
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if platform.system() == "Darwin" else 2**10)


def highest_memory(pid: int | str) -> float:
    """MiB that a process took at most so far; 0 where the system does not say."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM")), 0.0)


def name_of(device: torch.device) -> str:
    """What a table calls the machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} with {torch.backends.cpu.get_cpu_capability()}"


def peak_tflops(name: str) -> float | None:
    """TFLOP/s in bf16 of the GPU that PyTorch calls `name`; None where they are not known, as of a slice by MIG."""
    words = set(re.split(r"[\s-]", name))
    if {"Laptop", "MIG"} & words:
        return None
    return next((peak for card, peak in PEAKS.items() if words.issuperset(card.split())), None)

"""Where the computation runs, and how: precision, memory layout, compilation, threads."""

import ctypes
import logging
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress

import torch
from torch import nn

from diffusion.system import ranks
from diffusion.system.errors import brief

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # of glibc's mallopt
log = logging.getLogger("diffusion")
WORTH = {"cpu": (600.0, "default"), "cuda": (120.0, "reduce-overhead")}  # auto: seconds from which it compiles, and how
MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")  # of torch.compile


class Device:
    """A device and its settings.

    Args:
        type: "cpu", "cuda", "mps", or "auto" for the best that is present.
        index: which CUDA device.
        precision: "fp32", or "bf16" for autocast (weights stay fp32); "auto" is bf16 on CUDA and on CPUs with
            instructions for it (AVX512-BF16, AMX), fp32 elsewhere.
        compile: torch.compile the network, which pays off in long runs: False, True, or a mode of torch.compile;
            "reduce-overhead" replays CUDA graphs, for small networks; "auto" compiles where a training is given ten
            minutes or more on a CPU, two on CUDA.
        channels_last: keep activations as N×H×W×C in memory, which convolutions prefer.
        tf32: let CUDA round fp32 matrix products to TF32.
        threads: CPU threads; None leaves PyTorch's choice, or that of a training which measures.
    """

    def __init__(
        self,
        type: str = "auto",
        index: int = 0,
        precision: str = "auto",
        compile: bool | str = False,
        channels_last: bool = True,
        tf32: bool = True,
        threads: int | None = None,
    ) -> None:
        if type not in ("auto", "cpu", "cuda", "mps"):
            raise ValueError(f"type={type} must be one of auto, cpu, cuda, mps")
        if precision not in ("auto", "fp32", "bf16"):
            raise ValueError(f"precision={precision} must be one of auto, fp32, bf16")
        if isinstance(compile, str) and compile not in ("auto", *MODES):
            raise ValueError(f"compile={compile} must be true, false, auto or one of {', '.join(MODES)}")
        most = 4 * (os.cpu_count() or 1)
        if threads is not None and not 1 <= threads <= most:
            raise ValueError(f"threads={threads} must be from 1 to {most} on this machine")
        has_mps = torch.backends.mps.is_available()
        if type == "auto":
            type = "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
        if type == "cuda" and not torch.cuda.is_available():
            raise ValueError("type=cuda: PyTorch sees no CUDA device here; use device=cpu or device=auto")
        if type == "cuda" and not 0 <= index < torch.cuda.device_count():
            raise ValueError(f"index={index}: there are {torch.cuda.device_count()} CUDA devices, counted from 0")
        if type == "mps" and not has_mps:
            raise ValueError("type=mps: PyTorch sees no Apple GPU here; use device=cpu or device=auto")
        if type == "cuda" and ranks.size() > 1:  # one device for each process
            index = ranks.gpu(torch.cuda.device_count())
        self.torch_device = torch.device(type, index) if type == "cuda" else torch.device(type)
        fast_bf16 = type == "cuda" or (type == "cpu" and multiplies_bf16())
        self.autocasts = precision == "bf16" or (precision == "auto" and fast_bf16)
        self.compile, self.threads = compile, threads
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        if threads is not None:
            torch.set_num_threads(threads)
        if type == "cpu":
            keep_freed_memory()
        if type == "cuda":
            torch.set_float32_matmul_precision("high" if tf32 else "highest")
            torch.backends.cudnn.allow_tf32 = tf32

    def place(self, network: nn.Module, seconds: float | None = None) -> nn.Module:
        """The network on this device, in its memory format, compiled if that is asked for.

        Args:
            network: of which everything is moved.
            seconds: for which it is about to be trained, compilation included; None where nobody knows, and where the
                digits of a result must not depend on whether there is a compiler.
        """
        network = network.to(self.torch_device)
        network = network.to(memory_format=self.memory_format)
        mode = self.mode(seconds)
        if mode is not None and self.compiles():
            network.compile(mode=None if mode == "default" else mode)  # in place: weights keep their names
            if self.compile == "auto":
                log.info("device.compile=auto: the first step compiles the network, on the training's time.")
        return network

    def mode(self, seconds: float | None) -> str | None:
        """The mode of torch.compile for a network that is trained for so many seconds; None: it is not compiled."""
        if self.compile != "auto":
            return "default" if self.compile is True else self.compile or None
        least, mode = WORTH.get(self.torch_device.type, (math.inf, ""))
        return None if seconds is None or seconds < least else mode

    def compiles(self) -> bool:
        """Whether torch.compile works here, found out by a function of one addition; warns where it does not."""
        try:
            torch.compile(lambda x: x + 1)(torch.zeros(2, device=self.torch_device))
        except Exception as error:  # of many kinds: no C++ compiler, no Triton, a GPU that is too old
            log.warning("device.compile=%s: no compiler works here (%s); going on without.", self.compile, brief(error))
            return False
        return True

    def autocast(self) -> AbstractContextManager:
        """The context of every forward pass."""
        return torch.autocast(self.torch_device.type, torch.bfloat16, enabled=self.autocasts)

    def images_at_once(self, batch_size: int | None, size: Sequence[int] = ()) -> int:
        """How many images of (height, width) pixels to draw at once: what is asked for, or as many as keep this device
        busy and, beyond 64×64 pixels, take no more memory than so many of those.
        """
        if batch_size is not None:
            return batch_size
        most = 2000 if self.torch_device.type == "cuda" else 250
        return max(1, most * 64**2 // max(64**2, math.prod(size)))

    def at_most(self, batch_size: int) -> int:
        """Images at once for work whose batches are not halved where the memory is too small for them."""
        return min(batch_size, 250)

    def describe(self) -> str:
        """For the log: device, precision, threads."""
        name = torch.cuda.get_device_name(self.torch_device) if self.torch_device.type == "cuda" else ""
        where = f"{self.torch_device} {name}".strip()
        return f"{where}, {'bf16' if self.autocasts else 'fp32'}, {torch.get_num_threads()} CPU threads"


def multiplies_bf16() -> bool:
    """Whether this CPU has instructions for products of bf16 matrices, which are then 3 to 10 times faster."""
    checks = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return any(check is not None and bool(check()) for check in checks)


def physical_memory() -> float:
    """Bytes of this machine's memory; infinite where the system does not tell."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return math.inf


def keep_freed_memory() -> None:
    """Let the C library keep the memory of activations from step to step, instead of giving it back to the system.

    Otherwise each step gets its pages anew, cleared one by one: an eighth of the time of a small network.
    """
    with suppress(OSError, AttributeError):  # another C library than glibc manages without
        libc = ctypes.CDLL("libc.so.6")
        for option, size in ((M_MMAP_THRESHOLD, 2**25), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**26)):
            libc.mallopt(option, size)


@contextmanager
def exact_float32() -> Iterator[None]:
    """Without TF32 meanwhile: scores must not depend on which GPU they were computed on."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]

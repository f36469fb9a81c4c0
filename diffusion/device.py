"""Where the computation runs, and how: precision, memory layout, compilation, threads."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import nn


class Device:
    """A device and its settings.

    Args:
        type: "cpu", "cuda", "mps", or "auto" for the best that is present.
        index: which CUDA device.
        precision: "fp32", or "bf16" for autocast (weights stay fp32); "auto" is bf16 on CUDA, fp32 elsewhere.
        compile: torch.compile the network; pays off in long runs.
        channels_last: keep activations as N×H×W×C in memory, which convolutions prefer.
        tf32: let CUDA round fp32 matrix products to TF32.
        threads: CPU threads; None leaves PyTorch's choice.
    """

    def __init__(
        self,
        type: str = "auto",
        index: int = 0,
        precision: str = "auto",
        compile: bool = False,
        channels_last: bool = True,
        tf32: bool = True,
        threads: int | None = None,
    ) -> None:
        if type not in ("auto", "cpu", "cuda", "mps"):
            raise ValueError(f"type={type} must be one of auto, cpu, cuda, mps")
        if precision not in ("auto", "fp32", "bf16"):
            raise ValueError(f"precision={precision} must be one of auto, fp32, bf16")
        if threads is not None and threads < 1:
            raise ValueError(f"threads={threads} must be at least 1")
        has_mps = torch.backends.mps.is_available()
        if type == "auto":
            type = "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
        if type == "cuda" and not torch.cuda.is_available():
            raise ValueError("type=cuda: PyTorch sees no CUDA device here; use device=cpu or device=auto")
        if type == "cuda" and not 0 <= index < torch.cuda.device_count():
            raise ValueError(f"index={index}: there are {torch.cuda.device_count()} CUDA devices, counted from 0")
        if type == "mps" and not has_mps:
            raise ValueError("type=mps: PyTorch sees no Apple GPU here; use device=cpu or device=auto")
        self.torch_device = torch.device(type, index) if type == "cuda" else torch.device(type)
        self.autocasts = precision == "bf16" or (precision == "auto" and type == "cuda")
        self.compile = compile
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        if threads is not None:
            torch.set_num_threads(threads)
        if type == "cuda":
            torch.set_float32_matmul_precision("high" if tf32 else "highest")
            torch.backends.cudnn.allow_tf32 = tf32

    def place(self, network: nn.Module) -> nn.Module:
        """The network on this device, in its memory format, compiled if that is asked for."""
        network = network.to(self.torch_device)
        network = network.to(memory_format=self.memory_format)
        if self.compile:
            network.compile()  # in place: the names of the weights stay as they are
        return network

    def autocast(self) -> AbstractContextManager:
        """The context of every forward pass."""
        return torch.autocast(self.torch_device.type, torch.bfloat16, enabled=self.autocasts)

    def describe(self) -> str:
        """For the log: device, precision, threads."""
        name = torch.cuda.get_device_name(self.torch_device) if self.torch_device.type == "cuda" else ""
        where = f"{self.torch_device} {name}".strip()
        return f"{where}, {'bf16' if self.autocasts else 'fp32'}, {torch.get_num_threads()} CPU threads"


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

"""Where and how the computation runs: precision, compilation, and how many images at once."""

import logging

import pytest
import torch
from torch import nn

from diffusion.system import device
from diffusion.system.device import Device


@pytest.mark.parametrize(("fast", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_precision_auto_is_bf16_where_the_cpu_has_instructions_for_it(monkeypatch, fast, expected):
    monkeypatch.setattr(device, "multiplies_bf16", lambda: fast)
    a = torch.ones(2, 2)
    with Device(type="cpu").autocast():
        assert (a @ a).dtype == expected
    with Device(type="cpu", precision="fp32").autocast():
        assert (a @ a).dtype == torch.float32
    assert ("bf16" in Device(type="cpu").describe()) == fast


def test_without_the_checks_of_torch_the_answer_is_no(monkeypatch):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert device.multiplies_bf16() is False


def test_a_machine_without_a_compiler_is_told_so_and_goes_on(monkeypatch, caplog):
    def broken(*_, **__):
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", broken)
    network = nn.Linear(2, 2)
    with caplog.at_level(logging.WARNING, "diffusion"):
        placed = Device(type="cpu", compile=True).place(network)
    assert "device.compile=True: no compiler works here (" in caplog.text and "going on without" in caplog.text
    assert placed(torch.zeros(1, 2)).shape == (1, 2) and placed._compiled_call_impl is None


def test_the_mode_of_compilation_reaches_torch(monkeypatch):
    asked = []
    monkeypatch.setattr(Device, "compiles", lambda self: True)
    monkeypatch.setattr(nn.Module, "compile", lambda self, **settings: asked.append(settings))
    Device(type="cpu", compile="reduce-overhead").place(nn.Linear(1, 1))
    Device(type="cpu", compile=True).place(nn.Linear(1, 1))
    Device(type="cpu").place(nn.Linear(1, 1))
    assert asked == [{"mode": "reduce-overhead"}, {"mode": None}]
    with pytest.raises(ValueError, match="compile=fast must be true, false, auto or one of default, reduce-overhead"):
        Device(type="cpu", compile="fast")


def test_auto_compiles_where_it_is_worth_a_long_training_s_time(monkeypatch, caplog):
    asked = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **settings: asked.append(settings))
    monkeypatch.setattr(Device, "compiles", lambda self: True)
    automatic = Device(type="cpu", compile="auto")
    with caplog.at_level(logging.INFO, "diffusion"):
        for seconds in (None, 240.0, 599.0):  # a length in images keeps its digits, and a short run its time
            automatic.place(nn.Linear(1, 1), seconds)
        assert asked == [] and caplog.text == ""
        automatic.place(nn.Linear(1, 1), 900.0)
    assert asked == [{"mode": None}] and "device.compile=auto: the first step compiles the network" in caplog.text
    Device(type="cpu", compile=False).place(nn.Linear(1, 1), 900.0)
    automatic.torch_device = torch.device("mps")  # where nobody has measured it
    assert automatic.mode(1e6) is None and len(asked) == 1
    automatic.torch_device = torch.device("cuda")
    assert automatic.mode(100.0) is None and automatic.mode(180.0) == "reduce-overhead"


def test_auto_goes_on_without_a_compiler(monkeypatch, caplog):
    asked = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **settings: asked.append(settings))
    monkeypatch.setattr(Device, "compiles", lambda self: False)
    with caplog.at_level(logging.INFO, "diffusion"):
        Device(type="cpu", compile="auto").place(nn.Linear(1, 1), 900.0)
    assert asked == [] and caplog.text == ""


def test_another_c_library_manages_without_mallopt(monkeypatch):
    def absent(name):
        asked.append(name)
        raise OSError("libc.so.6: cannot open shared object file")

    asked = []
    monkeypatch.setattr(device.ctypes, "CDLL", absent)
    assert "cpu" in Device(type="cpu").describe() and asked == ["libc.so.6"]


def test_how_many_images_at_once_is_the_device_s_choice_unless_given():
    assert Device(type="cpu").images_at_once(None) == 250 and Device(type="cpu").images_at_once(7) == 7
    # as many pixels as 250 images of 64×64 have, and never none
    for size, expected in (((28, 28), 250), ((64, 64), 250), ((128, 128), 62), ((32, 256), 125), ((1024, 1024), 1)):
        assert Device(type="cpu").images_at_once(None, size) == expected

"""How the computation runs: precision, compilation, batches that fit the memory, time budgets and profiles."""

import json
import logging

import pytest
import torch
from conftest import tiny_config
from torch import nn
from torch.nn import functional as F

from diffusion.config import build
from diffusion.denoiser import Estimate, Estimator
from diffusion.networks.layers import GroupNorm, attend
from diffusion.sampler import DDIM
from diffusion.sampler.base import draw_images
from diffusion.schedule import Cosine
from diffusion.system import device
from diffusion.system.device import Device
from diffusion.training import pacing, running_sums


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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_attention_and_norm_are_those_of_torch_in_every_precision(dtype, generator):
    q, k, v = torch.randn(3, 2, 4, 9, 8, generator=generator).to(dtype)
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
    tolerance = {torch.bfloat16: 0.02, torch.float32: 1e-6, torch.float64: 1e-12}[dtype]
    found = attend(q, k, v)
    assert found.dtype == dtype and torch.allclose(found.double(), exact, atol=tolerance)
    x = torch.randn(2, 8, 5, 5, generator=generator)
    mine, theirs = GroupNorm(4, 8), nn.GroupNorm(4, 8)
    assert mine.state_dict().keys() == theirs.state_dict().keys()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        assert torch.allclose(mine(x.to(torch.bfloat16)).float(), theirs(x), atol=0.03)
    assert torch.equal(mine.double()(x.double()), theirs.double()(x.double()))


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
    with pytest.raises(ValueError, match="compile=fast must be true, false or one of default, reduce-overhead"):
        Device(type="cpu", compile="fast")


def test_another_c_library_manages_without_mallopt(monkeypatch):
    def absent(name):
        asked.append(name)
        raise OSError("libc.so.6: cannot open shared object file")

    asked = []
    monkeypatch.setattr(device.ctypes, "CDLL", absent)
    assert "cpu" in Device(type="cpu").describe() and asked == ["libc.so.6"]


# ------------------------------------------------------------------------------------------- memory


class Scarce(Estimator):
    """A denoiser whose memory runs out in the first or the second evaluation of more than so many images."""

    num_classes = 3

    def __init__(self, room, error, evaluation):
        super().__init__()
        self.evaluation = evaluation
        self.schedule, self.room, self.error, self.sizes, self.evaluated = Cosine(), room, error, [], 0

    def estimate(self, x_t, t, labels=None):
        self.sizes.append(len(x_t))
        if len(x_t) > self.room and self.sizes.count(len(x_t)) == self.evaluation:
            raise self.error
        self.evaluated += len(x_t)
        return Estimate(torch.tanh(x_t) * labels.view(-1, 1, 1, 1))


class Seen(list):
    """An observer that keeps what it sees, and can begin anew."""

    def __call__(self, x_t, x_0):
        self.append(x_t)

    def restart(self):
        self.clear()


OUT = (torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory"))


@pytest.mark.parametrize(("evaluation", "tried"), [(1, [11, 5, 2]), (2, [11, 11, 5, 5, 2])])
@pytest.mark.parametrize("message", OUT, ids=["cuda", "cpu"])
def test_a_batch_that_does_not_fit_is_halved_and_the_images_stay(message, evaluation, tried):
    def draw(room, batch_size):
        estimator = Scarce(room, message, evaluation)
        labels = torch.arange(11) % 3
        film = Seen()
        images = draw_images(
            *(DDIM(3), estimator, (1, 2, 2), labels, 11, 0, batch_size, torch.device("cpu")), observe=film
        )
        assert estimator.evaluated == 33 and len(film) == 3 and len({len(x_t) for x_t in film}) == 1
        return images, estimator.sizes

    expected, _ = draw(100, 11)
    images, sizes = draw(3, 11)
    assert torch.equal(images, expected)
    assert sizes[: len(tried)] == tried and max(sizes[len(tried) :]) <= 3
    with pytest.raises(RuntimeError):
        draw(0, 4)


def test_how_many_images_at_once_is_the_device_s_choice_unless_given():
    assert Device(type="cpu").images_at_once(None) == 250 and Device(type="cpu").images_at_once(7) == 7


# ------------------------------------------------------------------------------------------- time


def test_times_with_units():
    assert [pacing.budget_seconds(text) for text in ("90s", "4min", "1.5h", " 2 min ")] == [90, 240, 5400, 120]
    for wrong in ("4", "4 days", "0s", "-1s", "", "min"):
        with pytest.raises(ValueError, match=r"must be a time with its unit, such as 90s, 4min or 1\.5h"):
            pacing.budget_seconds(wrong)


def test_the_length_follows_the_speed():
    pace = pacing.Pace(100, 0, guess=1000)
    assert pace.steps(0, 0) == 1000
    assert pace.steps(1, 40) == 1000  # it compiled
    assert pace.steps(2, 40.5) == 2 + 119  # half a second per step
    assert pace.steps(3, 42) == 3 + 58  # it got slower: a second per step
    assert pace.steps(4, 99.9) == 5 and pace.steps(4, 100) == 4
    assert pacing.Pace(100, 7, guess=7).steps(7, 60) == 10  # resumed


class Clock:
    """A clock that goes on when it is told."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(running_sums.time, "perf_counter", lambda: self.now)


def test_a_pause_that_is_interrupted_does_not_count(monkeypatch):
    clock = Clock(monkeypatch)
    watch = running_sums.Stopwatch()

    def interrupted():
        with watch.paused():
            clock.now += 50
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    clock.now += 2
    assert watch.spent() == 2


def budgeted(folder, clock, monkeypatch, resume=None, **overrides):
    """A run in which each step takes a second, and its learning rates."""
    folder.mkdir(exist_ok=True)
    settings = {"training.steps": "null", "training.budget": "20s", "training.checkpoint_every": 5, **overrides}
    trainer = build.build_trainer(tiny_config(**settings), folder, resume)
    rates, step = [], trainer.train_step

    def slow(batch):
        step(batch)
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        clock.now += 1

    monkeypatch.setattr(trainer, "train_step", slow)
    trainer.fit()
    trainer.tracker.close()
    return trainer, rates


def test_a_budget_ends_the_run_on_time_with_a_learning_rate_of_zero(tmp_path, monkeypatch):
    trainer, rates = budgeted(tmp_path / "a", Clock(monkeypatch), monkeypatch, **{"training.warmup": 0})
    assert trainer.step == len(rates) == 20
    assert rates[-1] < 0.02 * trainer.base_rates[0]
    assert all(later < earlier for earlier, later in zip(rates[2:], rates[3:], strict=False))
    assert abs(rates[10] / trainer.base_rates[0] - 0.5) < 0.06


def test_a_budget_shorter_than_a_step_is_one_step(tmp_path, monkeypatch):
    trainer, rates = budgeted(tmp_path / "a", Clock(monkeypatch), monkeypatch, **{"training.budget": "0.5s"})
    assert trainer.step == trainer.total_steps == len(rates) == 1


def test_a_budget_that_is_spent_already_is_refused(tmp_path, monkeypatch):
    from diffusion.records import checkpoint
    from diffusion.system.errors import UserError

    clock, folder = Clock(monkeypatch), tmp_path / "run"
    budgeted(folder, clock, monkeypatch)
    state = {**checkpoint.load(folder / "last.pt"), "total_steps": 30}  # as a checkpoint on the way has it
    settings = {"training.steps": "null", "training.budget": "10s"}
    with pytest.raises(UserError, match=r"trained for 20 s already, and training\.budget is 10 s: give a larger one"):
        build.build_trainer(tiny_config(**settings), folder, state)


def test_what_comes_before_the_first_step_does_not_count(tmp_path, monkeypatch):
    from diffusion.records import checkpoint

    clock = Clock(monkeypatch)
    trainer = build.build_trainer(tiny_config(**{"training.steps": "null", "training.budget": "20s"}), tmp_path)
    clock.now += 1000  # a classifier is trained for the scores
    monkeypatch.setattr(trainer, "train_step", lambda batch: (_ for _ in ()).throw(ProcessLookupError("killed")))
    with pytest.raises(ProcessLookupError):
        trainer.fit()
    trainer.tracker.close()
    assert checkpoint.load(tmp_path / "last.pt")["seconds"] == 0


def test_previews_do_not_count_and_a_resumed_run_has_the_rest(tmp_path, monkeypatch):
    from diffusion.records import checkpoint

    clock, folder = Clock(monkeypatch), tmp_path / "run"
    folder.mkdir()
    from diffusion.training.monitor import Monitor

    preview = Monitor.preview
    calls = []

    def long(self, *arguments, **settings):
        calls.append(clock.now)
        clock.now += 1000
        return preview(self, *arguments, **settings)

    monkeypatch.setattr(Monitor, "preview", long)
    trainer, _ = budgeted(folder, clock, monkeypatch, **{"training.preview_every": 8})
    assert trainer.step == 20 and len(calls) >= 2
    state = checkpoint.load(folder / "last.pt")
    assert 19 <= state["seconds"] <= 21
    more, _ = budgeted(folder, clock, monkeypatch, resume=state, **{"training.budget": "30s"})
    assert more.step == 30


def test_a_budget_with_another_length_is_refused(tmp_path):
    from diffusion.system.errors import UserError

    with pytest.raises(
        UserError, match=r"training\.budget=4min and steps=4 both set the length: make one of them null"
    ):
        build.build_trainer(tiny_config(**{"training.budget": "4min"}), tmp_path)
    with pytest.raises(UserError, match=r"training\.budget=soon must be a time with its unit"):
        build.build_trainer(tiny_config(**{"training.budget": "soon", "training.steps": "null"}), tmp_path)


def test_a_profile_is_a_trace_and_a_table(tmp_path):
    trainer = build.build_trainer(tiny_config(**{"training.steps": 10, "training.profile": 2}), tmp_path)
    trainer.fit()
    trainer.tracker.close()
    names = [event.get("name", "") for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]]
    assert sum(name.startswith("ProfilerStep#") for name in names) == 2  # one mark for each step
    assert "convolution" in (tmp_path / "profile.txt").read_text()


@pytest.mark.parametrize("steps", [3, 6])
def test_a_run_too_short_for_a_profile_says_so(tmp_path, caplog, steps):
    trainer = build.build_trainer(tiny_config(**{"training.steps": steps, "training.profile": 2}), tmp_path)
    with caplog.at_level(logging.WARNING, "diffusion"):
        trainer.fit()
    trainer.tracker.close()
    assert f"training.profile=2: a run of {steps} steps is too short" in caplog.text
    assert "The profile of" not in caplog.text and not (tmp_path / "trace.json").exists()

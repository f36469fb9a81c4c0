"""The benchmark of a GPU: what is done in the time given, in which order, and what its tables say."""

import contextlib
import dataclasses
import json
import re
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from diffusion.records.results import write_json

sys.path.insert(0, str(ROOT / "benchmarks"))
import gpu
import machine

CONFIG = {"model": {"width": 40}, "training": {"batch_size": 512}}
SECONDS = {"throughput.py": 10, "evaluate.py": 15, "gpu.py": 12}  # what a part takes here, and a training 12 s more


class Clock:
    """Time that passes only where something is done, and a record of what that was."""

    def __init__(self):
        self.now, self.done, self.drawn = 0.0, [], []

    def perf_counter(self):
        return self.now

    def run(self, script, *words, log, seconds):
        """In the place of a process: it takes its time, or is ended before it is done."""
        said = dict(word.split("=", 1) for word in words if "=" in word)
        budget = said.get("training.budget")
        takes = gpu.budget_seconds(budget) + 12 if budget else SECONDS[script.rpartition("/")[2]]
        self.now += min(takes, seconds)
        self.done.append((budget and f"{budget}{' compiled' * (gpu.GRAPHS in words)}") or script.rpartition("/")[2])
        if "--draw" in words:
            self.draw(words)
        if takes > seconds:
            raise SystemExit("was ended")
        result = said.get("hydra.run.dir")
        path = gpu.Path(f"{result}/metrics.json" if result else words[words.index("--result") + 1])
        path.parent.mkdir(parents=True, exist_ok=True)
        if "--draw" not in words:
            write_json(path, {"config": CONFIG})

    def draw(self, words):
        """In the place of the drawing process: it comes to the end of its batches, or of the first two alone."""
        run, path = (gpu.Path(words[words.index(word) + 1]) for word in ("--draw", "--result"))
        batches = words[words.index("--batches") + 1 :]
        batches = [int(word) for word in batches if word.isdigit()]
        self.drawn.append((run.name, "--compile" in words, batches))
        found = gpu.read(path)["batches"] if path.exists() else []
        found += [{"batch": batch, "seconds": 1.0} for batch in batches[: self.batches]]
        write_json(path, {"run": run.name, "batches": found})

    batches = None  # how many a drawing process comes to


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(gpu, "time", found)
    monkeypatch.setattr(gpu, "run", found.run)
    return found


def session(folder, minutes, **changed):
    return gpu.Session(folder, "cuda", dataclasses.replace(gpu.FULL, ladder=(), **changed), minutes)


def test_the_most_telling_parts_come_first_and_a_second_call_goes_on(tmp_path, clock):
    session(tmp_path, 5.5).run()
    speeds, first = len(gpu.CONTENDERS), ["30s", "evaluate.py", "1min", "evaluate.py", "gpu.py"]
    assert clock.done == ["throughput.py"] * speeds + first + ["1min compiled", "evaluate.py"]
    assert clock.now <= 330
    for then in (["3min", "evaluate.py", "3min compiled", "evaluate.py"], ["gpu.py"], []):
        clock.done.clear()
        session(tmp_path, 9).run()
        assert clock.done == then
    batches = list(gpu.FULL.batches)
    assert clock.drawn == [("1min", False, batches), ("1min", True, batches)]  # of one model, though 3min was there


def test_drawing_goes_on_behind_the_batches_that_are_done(tmp_path, clock):
    here = session(tmp_path, 9)
    here.budget("30s")
    clock.batches = 2  # then, say, the memory is full
    here.drawing()
    here.budget("1min")
    clock.batches = None
    for _ in range(2):
        here.drawing()
    assert clock.drawn == [("30s", False, [1000, 2500, 5000, 10_000]), ("30s", False, [5000, 10_000])]


def test_each_batch_size_is_written_when_it_is_done(tmp_path, monkeypatch):
    """The second one is too large for the memory: the first is kept, and so is one of an earlier call."""
    from types import SimpleNamespace

    from diffusion.config import trained

    def images(sampler, count, labels, seed, batch):
        if batch > 20:
            raise MemoryError

    model = SimpleNamespace(device=SimpleNamespace(torch_device=torch.device("cpu")), evaluations=20, draw=images)
    model.labels = torch.zeros
    monkeypatch.setattr(gpu, "compose", lambda *words: SimpleNamespace(sampler=None))
    monkeypatch.setattr(trained, "open_model", lambda cfg: (model, {"config": CONFIG}))
    monkeypatch.setattr(trained, "choose_sampler", lambda *given: None)
    result = tmp_path / "drawing.json"
    for batches in ([10], [20, 30]):
        with contextlib.suppress(MemoryError):
            gpu.draw(tmp_path / "1min", result, "cpu", 40, batches, False)
    found = gpu.read(result)
    assert found["run"] == "1min" and [each["batch"] for each in found["batches"]] == [10, 20]


def test_what_is_done_in_small_never_counts_as_a_result(tmp_path, monkeypatch, capsys):
    folders = []
    monkeypatch.setattr(gpu, "FOLDER", tmp_path / "gpu")
    monkeypatch.setattr(gpu.Session, "run", lambda self: folders.append(self.folder))
    monkeypatch.setattr(gpu.Session, "write", lambda self: None)
    for words in ([], ["--small"], ["--small", "--device", "cpu"], ["--folder", str(tmp_path / "mine")]):
        monkeypatch.setattr(sys, "argv", ["gpu.py", *words])
        gpu.main()
    assert [folder.name for folder in folders] == ["gpu", "gpu_small", "gpu_small", "mine"]
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu"])
    with pytest.raises(SystemExit):
        gpu.main()
    assert "--device cpu goes with --small" in capsys.readouterr().err


def test_what_the_time_is_too_short_for_leaves_it_to_what_is_shorter(tmp_path, clock):
    session(tmp_path, 71 / 60, contenders=("best",)).run()
    assert clock.done == ["throughput.py", "30s"]  # then 19 s are left, too few for scores


def test_half_a_budget_is_trained_anew(tmp_path, clock):
    place = session(tmp_path, 9).place("30s")
    place.mkdir(parents=True)
    (place / "last.pt").write_text("half")
    session(tmp_path, 0).budget("30s")
    assert (place / "last.pt").exists()
    session(tmp_path, 9).budget("30s")
    assert not (place / "last.pt").exists() and (place / "record" / "metrics.json").exists()


def test_a_compiled_run_has_the_size_that_the_plain_one_chose(tmp_path, clock):
    here = session(tmp_path, 9)
    assert here.words("1min", compiled=True) is None
    here.budget("1min", compiled=True)
    assert clock.done == []
    here.budget("1min")
    chosen = ["training.budget=1min", "model.width=40", "training.batch_size=512", gpu.GRAPHS]
    assert here.words("1min", compiled=True) == chosen


def test_a_row_of_the_budgets_and_what_is_not_measured():
    state = {"step": 100, "seconds": 20.0, "config": CONFIG}
    size = ["40", "512", "51,200", "2,560"]
    assert gpu.budget_row(state, None) == [*size, *["not measured"] * 9]
    real = {"fid": 0.03, "recall": 0.85, "accuracy": None}
    found = {"fid": 0.5, "recall": 0.7, "accuracy": 0.9, "real": real, "settings": {"seconds": 1.25}}
    found["memorisation"] = {"copies": 0.0, "nearer_than_real": 0.0102}
    row = [*size, "0.500", "0.030", "0.700", "0.850", "0.900", "–", "0.0000", "0.0102", "1.2"]
    assert gpu.budget_row(state, found) == row


def test_tables_without_a_measurement_say_so(tmp_path, capsys):
    gpu.Session(tmp_path, "cpu", gpu.SMALL, 0).write()
    assert capsys.readouterr().out.lower().count("not measured") >= 3


def test_mfu_needs_the_peak_of_the_card(tmp_path):
    """3 GFLOP × 300,000 images/s are 900 TFLOP/s, of 1,000 nine tenths."""
    record = {
        **{"precision": "bf16", "batch_size": 256, "parameters": 1_000_000, "gflop_forward": 1.0, "threads": 16},
        **{"training_images_per_second": 3e5, "forward_images_per_second": 9e5, "training_gflop_per_second": 9e5},
        **{"peak_memory_mib": 100.0, "matrix_gflop_per_second": {"fp32": 5e4, "bf16": 1.8e6}, "torch": "2"},
        **{"device": "cuda", "machine": "a card of next year", "deviations": []},
    }
    unknown = gpu.Session(tmp_path, "cuda", gpu.FULL, 0).speeds({"best": [record]})
    assert "MFU: not known" in unknown and "50 %" in unknown  # of the matrix product's
    known = gpu.Session(tmp_path, "cuda", gpu.FULL, 0, peak=1000).speeds({"best": [record]})
    assert "| MFU |" in known and "90.0 %" in known and "of 1000 TFLOP/s" in known


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),  # a slice of the card
        ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", None),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("Tesla T4", 65),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_the_peaks_of_cards_by_the_names_that_pytorch_gives_them(name, peak):
    assert machine.peak_tflops(name) == peak


@pytest.mark.slow
def test_everything_in_small(tmp_path):
    """The real processes on a CPU: trained, scored, drawn, two rungs, and a second call that has nothing to do."""
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--small", "--device", "cpu", "--minutes", "9"]
    command += ["--folder", str(tmp_path)]
    pages = {page: page.read_text() for page in (ROOT / "docs" / "performance.md", ROOT / "docs" / "ladder.md")}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"`training.budget=2s model.width=8 training.batch_size=8` \| 8 \| 8 \| ", done.stdout)
    assert len(json.loads((tmp_path / "drawing.json").read_text())["batches"]) == 2
    assert "**v**" in done.stdout and "**dit**" in done.stdout and "not measured" not in done.stdout.lower()
    assert all(page.read_text() == text for page, text in pages.items())
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0 and " s left" not in again.stdout

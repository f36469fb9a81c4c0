"""Weights & Biases and MLflow beside TensorBoard: what they get offline; skipped where not installed."""

import logging
from importlib.util import find_spec

import pytest
import torch
from conftest import curve

from diffusion.records import trackers
from diffusion.records.results import read_metrics, write_json
from diffusion.records.tensorboard import TensorBoard
from diffusion.records.tracking import IDS, Service, Several, Tracker
from diffusion.system.errors import UserError


def test_one_several_or_none(tmp_path):
    assert isinstance(trackers.choose("tensorboard", tmp_path), TensorBoard)
    assert isinstance(trackers.choose(["tensorboard"], tmp_path), TensorBoard)
    none = trackers.choose(None, tmp_path)
    for each in (none, Tracker()):
        each.begin()
        each.scalars({"a": 1.0}, 1)
        each.image("b", torch.zeros(3, 2, 2, dtype=torch.uint8), 1)
        each.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("track", "words"),
    [
        ("tensorbord", "track=tensorbord must be tensorboard, wandb, mlflow, a list of several of them, or null"),
        (["mlflow", "mlflow"], r"track=\[mlflow,mlflow\] must be"),
        (5, "track=5 must be"),  # of a file
        ({"wandb": 1}, "track={'wandb': 1} must be"),
        ([["wandb"]], "must be"),
        ([1], r"track=\[1\] must be"),
    ],
)
def test_there_is_no_such_place(tmp_path, track, words):
    with pytest.raises(UserError, match=words):
        trackers.choose(track, tmp_path)


class Missing(Service):
    setting, title, package = "wandb", "Somewhere", "a_package_that_nobody_has"


class Broken(Service):
    """Installed, but every call fails."""

    setting, title, package = "broken", "Somewhere", "torch"

    def begin(self):
        self.run, self.calls = "id", 0

    def scalars(self, values, step):
        self.attempt(self.fail)

    def fail(self):
        self.calls += 1
        raise ConnectionError("no network")


def test_what_is_not_installed_is_told_with_the_way_out(tmp_path):
    with pytest.raises(UserError, match=r'needs the package .*: pip install -e "\.\[wandb\]"'):
        Missing(tmp_path)


def test_a_place_that_is_gone_ends_nothing_and_is_told_once(tmp_path, caplog, monkeypatch):
    broken, other = Broken(tmp_path), TensorBoard(tmp_path)
    both = Several([broken, other])
    both.begin()
    for step in range(5):
        both.scalars({"a": float(step)}, step)
    assert broken.calls == 1  # a minute passes before it is tried again
    broken.quiet_until = 0.0
    both.scalars({"a": 5.0}, 5)
    both.close()
    assert broken.calls == 2 and caplog.text.count("Somewhere cannot be reached for now") == 1
    assert curve(tmp_path, "a") == {step: float(step) for step in range(6)}


def test_an_id_that_is_none_is_not_taken(tmp_path):
    for given, found in (("ab-1_c", "ab-1_c"), ("../x", None), (7, None), ("", None), ("x" * 65, None)):
        write_json(tmp_path / IDS, {"broken": given})
        assert Broken(tmp_path).id == found
    Broken(tmp_path).remember("new")
    write_json(tmp_path / IDS, {**read_metrics(tmp_path / IDS), "other": "1"})
    Broken(tmp_path).remember("newer")
    assert read_metrics(tmp_path / IDS) == {"broken": "newer", "other": "1"}


# ------------------------------------------------------------------------------------------------- for real


@pytest.fixture
def quiet(monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    yield
    logging.getLogger("diffusion").setLevel(logging.NOTSET)


def shown(track, folder, step, group=None):
    """One start of a run, with a curve and a picture."""
    tracker = trackers.choose(track, folder, group=group)
    tracker.begin()
    tracker.configuration({"training": {"steps": 4, "budget": None}, "seed": step})
    tracker.scalars({"score/fid": 0.5 + step, "score/kid": None}, step)
    tracker.scalars({"noise_level/0.0-0.2": 1.0}, step)
    tracker.image("samples/ema", torch.full((3, 4, 5), 7, dtype=torch.uint8), step)
    tracker.text("config", "a: <b>")
    tracker.close()


@pytest.mark.skipif(find_spec("mlflow") is None, reason="mlflow is not installed")
def test_mlflow_gets_curves_pictures_and_settings_and_goes_on_with_its_run(tmp_path, quiet):
    from mlflow import MlflowClient

    shown("mlflow", tmp_path, 1, group="a_sweep")
    shown("mlflow", tmp_path, 2, group="a_sweep")
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("simple-diffusion")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == read_metrics(tmp_path / IDS)["mlflow"] and run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "score/fid")
    assert [(each.step, each.value) for each in history] == [(1, 1.5), (2, 2.5)]
    assert run.data.params == {"training.steps": "4", "training.budget": "None", "seed": "1"}
    assert run.data.tags["seed"] == "2" and run.data.tags["sweep"] == "a_sweep"
    names = {path.name for path in (tmp_path / "mlflow_artifacts").rglob("*")}
    assert "config.txt" in names and any(name.startswith("samples") and name.endswith(".png") for name in names)


def records(content):
    """What a log of LevelDB holds, after W&B's own 7 bytes: blocks of 32 KiB of pieces (checksum, length, type)."""
    place, parts = 7, []
    while place + 7 <= len(content):
        left = 2**15 - place % 2**15
        if left < 7:
            place += left
            continue
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        parts.append(content[place + 7 : place + 7 + size])
        place += 7 + size
        if kind in (1, 4):  # whole, or the last piece
            yield b"".join(parts)
            parts = []


@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_offline_lies_in_the_folder_and_keeps_its_id(tmp_path, quiet, monkeypatch):
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", "")
    shown("wandb", tmp_path, 1, group="a_sweep")
    shown("wandb", tmp_path, 2, group="a_sweep")
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert files
    values, runs = {}, set()
    for file in files:
        for data in records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.HasField("run"):
                runs.add((record.run.run_id, record.run.run_group, record.run.project))
            row = {item.key or item.nested_key[0]: item.value_json for item in record.history.item}
            if "score/fid" in row:
                values[int(row["step"])] = float(row["score/fid"])
    assert values == {1: 1.5, 2: 2.5}
    assert runs == {(read_metrics(tmp_path / IDS)["wandb"], "a_sweep", "simple-diffusion")}


@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_without_a_login_is_told_at_the_start(tmp_path, quiet, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(wandb, "login", lambda **given: False)
    wandb.teardown()
    with pytest.raises(UserError, match="nobody is logged in .* wandb login once, .*WANDB_MODE=offline"):
        trackers.choose("wandb", tmp_path)

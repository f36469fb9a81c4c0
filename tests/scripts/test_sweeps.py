"""Sweeps: what was stopped goes on, and each launcher and sweeper runs for real (where its package is installed)."""

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import CACHE, ROOT

FAST = (
    *("model.width=8", "model.groups=4", "model.head_width=8", "training.batch_size=8", "device=cpu"),
    *("training.steps=3", "preview.steps=2", "score.n=20", "score.held_out=8", f"features.cache={CACHE}"),
)


def needs(plugin):
    there = importlib.util.find_spec("hydra_plugins") and importlib.util.find_spec(f"hydra_plugins.{plugin}")
    return pytest.mark.skipif(not there, reason=f"{plugin} is not installed")


def table(folder):
    with open(folder / "leaderboard.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_sweep_that_was_killed_goes_on_without_repeating(run, tmp_path):
    words = ("-m", *FAST, "seed=0,1,2", "hydra.sweep.dir=sweep")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *words],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )
    while (
        len(list((tmp_path / "sweep").glob("*/metrics.json"))) < 1 or not (tmp_path / "sweep/leaderboard.csv").exists()
    ):
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert [row["status"] for row in table(tmp_path / "sweep")].count("missing") >= 1
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "sweep").glob("*/metrics.json")}
    again = run("train.py", *words)
    assert "finished: nothing to do" in again.stdout + again.stderr
    assert all(path.stat().st_mtime_ns == before for path, before in done.items())
    rows = table(tmp_path / "sweep")
    assert [row["status"] for row in rows] == ["finished"] * 3
    assert sorted(row["overrides"].split()[-1] for row in rows) == ["seed=0", "seed=1", "seed=2"]


@pytest.mark.slow
def test_finished_jobs_are_left_alone_whatever_they_started_from(run, tmp_path):
    """Also where the run takes its network from a checkpoint; and where a later start fails, the scores stay."""
    run("train.py", *FAST, "hydra.run.dir=basis")
    words = ("-m", *FAST[4:], "checkpoint=basis", "seed=0,1", "hydra.sweep.dir=sweep")
    run("train.py", *words)
    done = {path: path.read_text() for path in (tmp_path / "sweep").glob("*/metrics.json")}
    assert len(done) == 2
    again = run("train.py", *words)
    assert (again.stdout + again.stderr).count("finished: nothing to do") == 2
    assert all(path.read_text() == text for path, text in done.items())

    words = ("-m", "checkpoint=basis", "n=20,30", "sampler.steps=2", "device=cpu", "hydra.sweep.dir=scores", FAST[-1])
    run("evaluate.py", *words)
    assert (run("evaluate.py", *words).stderr).count("finished: nothing to do") == 2
    (tmp_path / "basis").rename(tmp_path / "away")
    failed = run("evaluate.py", *words, check=False)
    assert failed.returncode != 0 and "checkpoint=basis: there is no such file" in failed.stderr
    assert [row["status"] for row in table(tmp_path / "scores")] == ["finished", "finished"]


@pytest.mark.slow
@needs("hydra_joblib_launcher")
def test_joblib(run, tmp_path):
    done = run("train.py", "-m", *FAST, "launch=joblib", "seed=0,1", "guidance.dropout=0.1,7", check=False)
    (sweep,) = (tmp_path / "outputs" / "sweep").iterdir()
    assert sorted(row["status"] for row in table(sweep)) == ["failed", "failed", "finished", "finished"], done.stderr
    assert "guidance.dropout=7 must lie between" in table(sweep)[-1]["error"]
    assert "Leaderboard" in done.stdout and done.returncode != 0


@pytest.mark.slow
@needs("hydra_submitit_launcher")
def test_submitit(run, tmp_path):
    done = run("train.py", "-m", *FAST, "launch=submitit", "seed=0,1")
    (sweep,) = (tmp_path / "outputs" / "sweep").iterdir()
    assert [row["status"] for row in table(sweep)] == ["finished", "finished"]
    assert "Leaderboard" in done.stdout


@pytest.mark.slow
@needs("hydra_ray_launcher")
def test_ray(run, tmp_path):
    run("train.py", "-m", *FAST, "launch=ray", "seed=0,1")
    (sweep,) = (tmp_path / "outputs" / "sweep").iterdir()
    assert [row["status"] for row in table(sweep)] == ["finished", "finished"]


@pytest.mark.slow
@needs("hydra_optuna_sweeper")
def test_a_stored_search_goes_on_after_a_kill(run, tmp_path):
    words = ("-m", *FAST, "search=optuna", "trials=4", "hydra.sweep.dir=sweep")
    words = (*words, "optimizer.lr=tag(log,interval(1e-4,1e-2))", "model.width=choice(8,16)")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )
    while len(list((tmp_path / "sweep").glob("*/metrics.json"))) < 2:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    before = [json.loads(path.read_text()) for path in (tmp_path / "sweep").glob("*/metrics.json")]
    finished = sum(metrics["status"] == "finished" for metrics in before)
    run("train.py", *words)
    rows = table(tmp_path / "sweep")
    assert sum(row["status"] == "finished" for row in rows) == 4 > finished
    assert (tmp_path / "sweep" / "study.db").exists()
    best = (tmp_path / "sweep" / "optimization_results.yaml").read_text()
    # A trial that was killed after its scores and before the study knew of them is in the table alone.
    assert any(f"best_value: {float(row['fid'])}"[:18] in best for row in rows)
    more = run("train.py", *words, check=False)
    assert "has finished as many: give more" in more.stdout + more.stderr and "Traceback" not in more.stderr
    assert len(table(tmp_path / "sweep")) == len(rows)


def test_engines_that_are_not_installed_say_what_to_install(run):
    for words, plugin, extra in (
        (("launch=joblib",), "hydra_joblib_launcher", "joblib"),
        (("search=optuna",), "hydra_optuna_sweeper", "search"),
    ):
        if importlib.util.find_spec("hydra_plugins") and importlib.util.find_spec(f"hydra_plugins.{plugin}"):
            continue
        done = run("train.py", "-m", *words, check=False)
        text = done.stdout + done.stderr
        assert done.returncode != 0 and f'pip install -e ".[{extra}]"' in text and "Traceback" not in text

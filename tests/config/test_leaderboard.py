"""The leaderboard of a sweep folder."""

import csv
import json

from diffusion.config.cli import folder_name
from diffusion.config.leaderboard import rows, write


def add(folder, name, **metrics):
    (folder / name).mkdir()
    (folder / name / "metrics.json").write_text(json.dumps({"status": "finished", "overrides": [name], **metrics}))


def test_ranked_by_fid_with_failed_jobs_last(tmp_path):
    add(tmp_path, "b", fid=2.0, n=100)
    add(tmp_path, "a", fid=3.0, n=100)
    add(tmp_path, "c", status="failed", error="no reason")
    add(tmp_path, "d")  # finished without scores
    assert [(row["folder"], row["rank"]) for row in rows(tmp_path)] == [("b", 1), ("a", 2), ("d", 1), ("c", None)]
    write(tmp_path)
    with open(tmp_path / "leaderboard.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["folder"] for row in table] == ["b", "a", "d", "c"] and table[3]["error"] == "no reason"


def test_fids_of_different_n_are_ranked_apart(tmp_path):
    add(tmp_path, "large", fid=3.0, n=1000)
    add(tmp_path, "small", fid=1.0, n=100)
    assert [(row["folder"], row["rank"]) for row in rows(tmp_path)] == [("large", 1), ("small", 1)]


def test_folder_names_are_safe():
    name = folder_name("experiment=a/b,model.attention=[1,2],note='x y',lr=1e-3")
    assert not set("=,/[]' ") & set(name) and "1e-3" in name
    assert len(folder_name("x=" + "y" * 500)) <= 150
    assert folder_name("") == "run"

"""The record board: what a run must be to be entered, what is written of it, and which entry stands first."""

import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from diffusion.records import checkpoint
from diffusion.records.results import write_json
from diffusion.system.errors import UserError

sys.path.insert(0, str(ROOT / "benchmarks"))
import record_rules
import records

LOG = "[2026-02-03 10:00:00,000][INFO] Data: fashion_mnist, 60000 + 10000 images. Device: {}.\n"
CPU, GPU = "cpu, fp32, 2 CPU threads", "cuda:0 NVIDIA H100 80GB HBM3, bf16, 16 CPU threads"
WORDS = ("experiment=best", "training.budget=4min", "model.multipliers=[1, 2]")


def nodes(**changed):
    """The config of a run, as far as the board reads it."""
    groups = "model schedule objective loss guidance sampler".split()
    config = {name: {"_target_": f"diffusion.{name}.Part"} for name in groups}
    config["data"] = {"_target_": "diffusion.data.datasets.fashion_mnist", "root": "/home/somebody/data"}
    config |= {"training": {"budget": "4min", "batch_size": 64}, "seed": 0, "checkpoint": None}
    config["score"] = {"n": 0, "seed": 0}
    return {**config, **changed}


def scores(fid=0.3, n=5000, copies=0.0, nearer=0.008, **protocol):
    images = "checkpoint=/home/somebody/mine, averaged weights at step 10; UniPC, 12 steps; guidance scale 2.5; seed 0"
    return {
        "status": "finished",
        "step": 10,
        "n": n,
        "settings": {"seconds": 21.5},
        "overrides": ["checkpoint=/home/somebody/mine", f"n={n}"],
        **{"fid": fid, "recall": 0.7, "accuracy": 0.94},
        "real": {"fid": 0.032, "recall": 0.848, "accuracy": 0.918},
        "memorisation": {"copies": copies, "nearer_than_real": nearer},
        "protocol": {"images": images, **record_rules.PROTOCOL, **protocol},
    }


def make(folder, words=WORDS, device=CPU, seconds=240.5, found=None, image=(), **changed):
    """The folder of a run of ten steps that is done and scored; its path."""
    folder.mkdir(parents=True)
    config = nodes(**changed)
    weights = {"w": torch.zeros(1)}
    described = {"size": 28, "channels": 1, "padding": 0, "class_names": list("0123456789")}
    state = {"config": config, "step": 10, "total_steps": 10, "network": weights, "ema": {"network": weights}}
    state |= {"optimizer": {}, "sums": torch.zeros(1), "best": None, "seconds": seconds}
    state["image"] = {**described, **record_rules.IMAGES, **dict(image)}
    checkpoint.save(folder / "last.pt", state)
    (folder / "train.log").write_text(LOG.format(device), encoding="utf-8")
    write_json(folder / "metrics.json", {"status": "finished", "step": 10, "overrides": list(words), "config": config})
    (folder / "record").mkdir()
    write_json(folder / "record" / "metrics.json", found or scores())
    return folder


def entry(fids=(0.3,), **changed):
    """An entry of the board with these FIDs."""
    run = {"images": 640, "drawing_seconds": 21.5, "nearer_than_real": 0.008, "recall": 0.7, "accuracy": 0.94}
    run |= {"real": {"fid": 0.032, "recall": 0.848, "accuracy": 0.918}, "drawn": "UniPC"}
    head = {"class": "two CPU cores", "budget": "4min", "machine": "a machine", "command": "python train.py"}
    runs = [{**run, "seed": seed, "fid": fid} for seed, fid in enumerate(fids)]
    return {**head, "own_parts": {}, "commit": "abc1234", "date": "2026-02-03", "runs": runs, **changed}


def test_an_entry_tells_how_it_was_made_and_nothing_of_whose_machine_it_was(tmp_path):
    words = ["seed=1", *WORDS, "data.root=/home/somebody/data", "score.n=0", "training.preview_every=0", "track=null"]
    words += ["score.sampler=ddim", "training.checkpoint_every=0", "training.log_every=10"]
    made = records.entry_of([records.one_run(make(tmp_path / "somebody", words, seed=1))], "abc1234")
    assert made["command"] == "python train.py experiment=best training.budget=4min 'model.multipliers=[1, 2]'"
    assert (made["class"], made["budget"], made["date"]) == ("two CPU cores", "4min", "2026-02-03")
    assert made["machine"].endswith("2 CPU threads, fp32") and made["own_parts"] == {}
    run = made["runs"][0]
    assert (run["seed"], run["images"], run["seconds"], run["drawing_seconds"]) == (1, 640, 240.5, 21.5)
    assert run["drawn"] == "UniPC, 12 steps; guidance scale 2.5; seed 0"
    assert "somebody" not in json.dumps(made)


def test_a_gpu_is_called_by_its_name_and_a_budget_as_the_board_calls_it(tmp_path):
    folder = make(tmp_path / "a", device=GPU, seconds=30, training={"budget": "0.5min", "batch_size": 64})
    made = records.one_run(folder / "last.pt")
    found = made["class"], made["budget"], made["machine"]
    assert found == ("one GPU", "30s", "NVIDIA H100 80GB HBM3, bf16")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"data": {"_target_": "diffusion.data.datasets.fashion_mnist_mini"}}, "not trained on the full Fashion-MNIST"),
        ({"image": {"images": 59_999}}, "not trained on the full Fashion-MNIST"),
        ({"guidance": {"_target_": "diffusion.guidance.Unconditional"}}, "knows no classes"),
        ({"checkpoint": "old"}, "starts from another run, checkpoint=old"),
        ({"words": ["resume=latest"]}, "gone on with by resume="),
        ({"words": [*WORDS, "model.table='/srv/x'"]}, "a file that only this machine has, model.table='/srv/x'"),
        ({"words": [*WORDS, "model.table=./x"]}, "a file that only this machine has, model.table=./x"),
        ({"words": [*WORDS, "model.tables=[a, ../x]"]}, "a file that only this machine has, model.tables="),
        ({"words": ["experiment=mine", *WORDS[1:]]}, "told experiment=mine, an option that git does not know here"),
        (
            {"words": [*WORDS, "sampler@preview=my-own"]},
            "told sampler@preview=my-own, an option that git does not know",
        ),
        ({"training": {"budget": None, "batch_size": 64}}, "length in images or steps"),
        ({"training": {"budget": "5min", "batch_size": 64}}, "has training.budget=5min: .*one of 1min, 4min, 15min"),
        ({"training": {"budget": "30s", "batch_size": 64}, "seconds": 30}, "on two CPU cores it is one of"),
        ({"seconds": 267}, "took 267.0 s, and training.budget=4min allows 2% or one step"),  # a step is 26.7 s
        ({"device": "cpu, fp32, 4 CPU threads"}, "trained with 4 CPU threads: .* device.threads=2"),
        ({"device": "mps, fp32, 2 CPU threads"}, "trained with mps"),
        ({"device": f"{CPU}.\n{LOG.format(GPU)[:-2]}"}, "tells of 2 machines"),
        ({"device": f"{CPU}.\n4 processes share every batch"}, "by several processes"),
        ({"found": scores(scorer="another")}, "the scorer is another, not classifier trained on fashion_mnist"),
        ({"found": scores(copies=0.0002)}, "exact copies of training images, 0.02% of them"),
        ({"found": scores(nearer=0.0203)}, "learned by heart: 2.03% of its images"),
    ],
)
def test_a_broken_rule_is_one_sentence(tmp_path, changed, words):
    with pytest.raises(UserError, match=words) as told:
        records.one_run(make(tmp_path / "run", **changed))
    assert "\n" not in str(told.value)


def test_a_run_that_is_over_by_a_step_is_in_time(tmp_path):
    """Ten steps in 266 s: a step is 26.6 s, and 240 s and a step are more than that."""
    assert records.one_run(make(tmp_path / "run", seconds=266))["run"]["seconds"] == 266


def test_a_run_must_have_come_to_its_end(tmp_path):
    folder = make(tmp_path / "run")
    write_json(folder / "metrics.json", {"status": "finished", "step": 9, "overrides": [], "config": {}})
    with pytest.raises(UserError, match="has not come to its end"):
        records.one_run(folder)
    (folder / "metrics.json").unlink()
    with pytest.raises(UserError, match="has not come to its end"):
        records.one_run(folder)
    with pytest.raises(UserError, match="RUN=.*there is no such file or folder"):
        records.one_run(tmp_path / "nowhere")


def test_scores_of_older_weights_are_measured_anew(tmp_path, monkeypatch):
    folder, called = make(tmp_path / "run", found=scores(fid=9.0)), []

    def evaluate(script, *words, log):
        called.append((script, *words))
        write_json(folder / "record" / "metrics.json", scores(fid=0.25))

    monkeypatch.setattr(records, "run", evaluate)
    assert records.one_run(folder)["run"]["fid"] == 9.0 and not called
    later = (folder / "record" / "metrics.json").stat().st_mtime + 10
    os.utime(folder / "last.pt", (later, later))
    assert records.one_run(folder, trust="mine")["run"]["fid"] == 0.25
    assert called == [
        ("evaluate.py", f"checkpoint={folder}", "n=5000", "trust=mine", f"hydra.run.dir={folder / 'record'}")
    ]


@pytest.mark.parametrize(
    "other",
    [
        {"n": 1000},
        {"step": 9},
        {"status": "running"},
        {"overrides": ["checkpoint=mine", "n=5000", "sampler.steps=50"]},
        {"overrides": ["checkpoint=mine", "n=5000", "guidance.scale=3"]},
        {"overrides": ["checkpoint=mine", "n=5000", "seed=1"]},
    ],
    ids=str,
)
def test_scores_that_are_not_those_of_the_rules_are_measured_anew(tmp_path, monkeypatch, other):
    """And those of the run itself never count: the sampler of its previews may have drawn for them."""
    folder = make(tmp_path / "run", found={**scores(fid=0.1), **other})
    own = {**scores(fid=0.2), "overrides": list(WORDS), "config": nodes()}
    write_json(folder / "metrics.json", own)
    new = {**scores(fid=0.25), "overrides": ["checkpoint=mine", "n=5000", "device=cuda", "trust=mine"]}
    monkeypatch.setattr(records, "run", lambda *words, log: write_json(folder / "record" / "metrics.json", new))
    assert records.one_run(folder)["run"]["fid"] == 0.25
    monkeypatch.setattr(records, "run", None)  # what it has now counts
    assert records.one_run(folder)["run"]["fid"] == 0.25


def test_options_of_a_command_are_those_that_git_knows():
    words = ["experiment=best", "+model=unet_light", "sampler@preview=unipc", "seed=1", "launch=null", "trust=mine"]
    records.check_options(ROOT, [*words, "model.width=64", "training.images=64", "+data=fashion_mnist"])
    assert "model/unet_light.yaml" in record_rules.options_of(words)


def test_runs_of_one_entry_differ_by_their_seeds_alone(tmp_path):
    one, two = (records.one_run(make(tmp_path / str(seed), seed=seed)) for seed in (1, 0))
    assert [run["seed"] for run in records.entry_of([one, two], "abc1234")["runs"]] == [0, 1]
    with pytest.raises(UserError, match="seeds 1, 1: train each with another seed="):
        records.entry_of([one, one], "abc1234")
    other = records.one_run(make(tmp_path / "wide", [*WORDS, "model.width=96"]))
    with pytest.raises(UserError, match="for the command of one is .*model.width=96"):
        records.entry_of([one, other], "abc1234")


def test_parts_of_ones_own_are_named_and_can_be_read(tmp_path):
    words = [*WORDS, "trust=mine", "model._target_=mine.Net"]
    run = records.one_run(make(tmp_path / "run", words, model={"_target_": "mine.Net"}))
    with pytest.raises(UserError, match="mine.Net is not part of this package: .* --code ADDRESS"):
        records.entry_of([run], "abc1234")
    made = records.entry_of([run], "abc1234", "https://example.org/mine")
    assert records.in_words(made).endswith("with `model._target_=mine.Net` of https://example.org/mine.")


def test_the_table_holds_medians_beside_the_best_and_real_images():
    text = records.tables([entry([0.3, 0.2, 0.45])])
    row = next(line for line in text.splitlines() if line.startswith("| 4min"))
    cells = [cell.strip() for cell in row.strip("|").split("|")][2:]
    assert cells[:5] == ["**0.300**", "0.200", "0.032", "0.700 (0.848)", "0.940 (0.918)"]
    assert cells[5:] == ["640", "21.5", "0.0080", "0, 1, 2"]
    assert text.count("no run yet") == 7 and "1. `python train.py`, commit abc1234, 2026-02-03, on a machine" in text


def test_three_seeds_come_before_one_and_then_the_lower_median():
    lucky, three, better = entry([0.1]), entry([0.3, 0.3, 0.1]), entry([0.2, 0.25, 0.9], commit="def5678")
    other = entry([0.01] * 3, budget="1min")
    assert records.ranked([lucky, three, better, other], "two CPU cores", "4min") == [better, three, lucky]


def test_an_entry_takes_in_the_seeds_of_one_of_the_same_command_commit_and_machine():
    old, other = entry([0.3, 0.5, 0.4], date="2026-02-01"), entry([0.3], machine="another")
    new = entry([0.2, 0.6])
    new["runs"][0]["seed"] = 3
    new["runs"].reverse()  # seeds 1 and 3: 1 is there, and counts as it is now
    board = records.with_entry([old, other], new)
    assert board[0] == other and len(board) == 2
    assert [(run["seed"], run["fid"]) for run in board[1]["runs"]] == [(0, 0.3), (1, 0.6), (2, 0.4), (3, 0.2)]
    assert board[1]["date"] == "2026-02-01"
    for name in ("commit", "command", "machine"):
        assert records.with_entry([old], {**new, name: "another"}) == [old, {**new, name: "another"}]
    again = entry([0.1, 0.1, 0.1])
    assert records.with_entry([old], again) == [again]


def test_the_guidance_of_every_seed_is_told():
    made = entry([0.3, 0.2, 0.4])
    for run, scale in zip(made["runs"], (2.0, 2.5, 2.0), strict=True):
        run["drawn"] = f"guidance scale {scale}"
    assert records.in_words(made).endswith("drawn with guidance scale 2.0; guidance scale 2.5.")


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A repository with one commit, in the place of this one; git(…) in it."""
    folder = tmp_path / "clone"
    (folder / "docs").mkdir(parents=True)
    names = dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), "somebody")
    names |= dict.fromkeys(("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"), "somebody@example.org")
    for name, value in {**names, "GIT_CONFIG_GLOBAL": "/dev/null"}.items():
        monkeypatch.setenv(name, value)
    board, page = folder / "docs" / "records.json", folder / "docs" / "records.md"
    write_json(board, {"entries": []})
    page.write_text("<!-- records: made by benchmarks/records.py -->\n<!-- end -->\n")
    (folder / "code.py").write_text("1\n")
    for name, value in {"ROOT": folder, "BOARD": board, "PAGE": page}.items():
        monkeypatch.setattr(records, name, value)

    def git(*words):
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    return git


def test_the_commit_is_known_and_whether_the_code_is_another(clone):
    head, far = clone("rev-parse", "--short", "HEAD"), 2.0**40
    assert records.commit_of(None, far) == head
    records.PAGE.write_text("another board\n")
    assert records.commit_of(None, far) == head
    (records.ROOT / "more.py").write_text("2\n")  # known to nobody else
    assert records.commit_of(None, far) == f"{head} with changes"
    (records.ROOT / "more.py").unlink()
    assert records.commit_of(None, far) == head
    (records.ROOT / "code.py").write_text("2\n")
    assert records.commit_of(None, far) == f"{head} with changes"
    assert records.commit_of("HEAD", 0) == head
    with pytest.raises(UserError, match=f"The commit {head} is younger than the run: .* --commit HASH"):
        records.commit_of(None, 0)
    with pytest.raises(UserError, match="The commit is not known: git rev-parse"):
        records.commit_of("nothing", 0)


def test_the_whole_way_of_a_run_onto_the_board(clone, tmp_path, monkeypatch, capsys):
    runs = [str(make(tmp_path / str(seed), found=scores(fid), seed=seed)) for seed, fid in enumerate((0.5, 0.4, 0.6))]
    monkeypatch.setattr(sys, "argv", ["records.py", *runs])
    records.main()
    assert "Number 1 of 4min on two CPU cores" in capsys.readouterr().out
    records.main()  # again: nothing is there twice
    found = json.loads(records.BOARD.read_text())["entries"]
    assert len(found) == 1 and found[0]["commit"] == clone("rev-parse", "--short", "HEAD")
    assert "| **0.500** | 0.400 |" in records.PAGE.read_text() and str(tmp_path) not in records.PAGE.read_text()
    monkeypatch.setattr(sys, "argv", ["records.py", str(make(tmp_path / "3", found=scores(0.7), seed=3))])
    records.main()  # a fourth seed comes to the three
    assert "Number 1 of 4min on two CPU cores" in capsys.readouterr().out
    found = json.loads(records.BOARD.read_text())["entries"]
    assert [run["seed"] for run in found[0]["runs"]] == [0, 1, 2, 3] and len(found) == 1
    assert "| **0.550** | 0.400 |" in records.PAGE.read_text()
    monkeypatch.setattr(sys, "argv", ["records.py", str(make(tmp_path / "bad", seconds=500))])
    with pytest.raises(SystemExit, match="took 500.0 s"):
        records.main()
    assert json.loads(records.BOARD.read_text())["entries"] == found


def test_the_page_shows_what_the_file_holds():
    text = records.tables(json.loads(records.BOARD.read_text(encoding="utf-8"))["entries"])
    assert f"made by benchmarks/records.py -->\n\n{text}\n\n<!-- end -->" in records.PAGE.read_text(encoding="utf-8")


@pytest.mark.full_data
def test_the_rules_know_the_whole_of_fashion_mnist():
    from diffusion.data.datasets import fashion_mnist

    described = fashion_mnist("data/fashion_mnist").describe()
    assert {name: described[name] for name in record_rules.IMAGES} == record_rules.IMAGES


def test_the_rules_know_the_scorer_that_comes_with_the_package(features):
    """Of the embedded images, as of all: they share it."""
    found = {"scorer": features.name, "preprocessing": features.preprocessing}
    assert found.items() <= record_rules.PROTOCOL.items()

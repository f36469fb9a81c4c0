"""Where a model errs, and the trainings that the rule is fitted to."""

import json
import sys
from types import SimpleNamespace

import pytest
from conftest import ROOT

import diffusion

sys.path.insert(0, str(ROOT / "benchmarks"))
import by_noise_level
import recipe
import recipe_runs


@pytest.fixture(scope="module")
def hardly_trained(tmp_path_factory):
    words = ["training.images=64", "training.batch_size=32", "model.width=16", "score.n=0", "training.preview_every=0"]
    return diffusion.train(
        [*words, "training.budget=null", "schedule=flow", "objective=flow", "sampler=unipc", "sampler.steps=4"],
        tmp_path_factory.mktemp("run"),
        progress=False,
    )


def test_with_hardly_any_noise_the_images_come_back_and_with_nothing_else_they_do_not(hardly_trained):
    """A model that has learned nothing gives x_t back at t = 0.001, a quarter of a grey level off."""
    (start, *real), (low, *given), (end, *nothing) = by_noise_level.distances(
        hardly_trained, 200, [1.0, 1.0, 2.0], [0.001, 1.0]
    )
    assert (start, low, end) == (0.0, 0.001, 1.0)
    assert real[0] == real[1] and given[0] == given[1] and nothing[0] == nothing[1]
    assert given[0] == pytest.approx(real[0], rel=0.05)
    assert nothing[0] > 20 * real[0] and nothing[2] != nothing[0]  # another scale, other images


def test_trainings_that_a_file_has_are_not_done_again(tmp_path, monkeypatch, capsys):
    done = []

    def scores(images, width, seed, n, threads):
        done.append((images, width))
        for scale in (2.0, 3.0):
            yield {"images": images + 32, "width": width, "batch": 64, "scale": scale, "seed": seed, "n": n, "fid": 1.0}

    monkeypatch.setattr(recipe_runs, "scores", scores)
    file = tmp_path / "runs.jsonl"
    for words in (["--images", "640", "--widths", "16"], ["--images", "640", "1280", "--widths", "32", "16"]):
        monkeypatch.setattr(sys, "argv", ["recipe_runs.py", str(file), *words])
        recipe_runs.main()
    assert done == [(640, 16), (1280, 16), (640, 32), (1280, 32)]
    assert len(file.read_text().splitlines()) == 8 == len(capsys.readouterr().out.splitlines())
    assert all(json.loads(line)["asked"] in (640, 1280) for line in file.read_text().splitlines())
    monkeypatch.setattr(sys, "argv", ["recipe_runs.py", str(file), "--images", "640", "--widths", "16", "--n", "50"])
    recipe_runs.main()  # of another number of images the FID is another one
    assert len(done) == 5 and done[-1] == (640, 16)
    file.write_text("".join(line + "\n" for line in file.read_text().splitlines()[:8]))
    assert len(recipe.best(recipe.read(file))) == 4  # what benchmarks/recipe.py makes of them


def test_processes_side_by_side_share_the_trainings(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(recipe_runs, "scores", lambda images, width, *_: done.append((images, width)) or iter(()))
    for part in ("0/3", "1/3", "2/3"):
        monkeypatch.setattr(sys, "argv", ["recipe_runs.py", str(tmp_path / "runs.jsonl"), "--part", part])
        recipe_runs.main()
    assert len(done) == len(set(done)) == len(recipe_runs.IMAGES) * len(recipe_runs.WIDTHS)


def test_a_training_that_is_done_is_scored_around_the_scale_of_the_rule(hardly_trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(diffusion, "load", lambda run: hardly_trained)

    def scored(file, *words):
        monkeypatch.setattr(sys, "argv", ["recipe_runs.py", str(tmp_path / file), *words])
        recipe_runs.main()
        return [json.loads(line) for line in (tmp_path / file).read_text().splitlines()]

    rows = scored("runs.jsonl", "--n", "20", "--runs", "a", "b")
    assert len(rows) == len(recipe_runs.AROUND)  # "b" is the same training
    assert "b: scored in" in capsys.readouterr().out
    assert rows == scored("others.jsonl", "--n", "20", "--runs", "a")
    assert {(row["images"], row["width"], row["batch"], row["n"]) for row in rows} == {(64, 16, 32, 20)}
    assert [row["scale"] for row in rows] == [2.56, 3.2, 4.0] and all(row["fid"] > 0 for row in rows)
    assert len(scored("runs.jsonl", "--n", "30", "--runs", "a")) == 2 * len(rows)  # of another number of images


def test_a_model_without_labels_has_no_scale(tmp_path, monkeypatch):
    without = SimpleNamespace(denoiser=SimpleNamespace(num_classes=0))
    monkeypatch.setattr(diffusion, "load", lambda run: without)
    monkeypatch.setattr(sys, "argv", ["recipe_runs.py", str(tmp_path / "runs.jsonl"), "--runs", "a"])
    with pytest.raises(SystemExit, match=r"^a: this model was trained without labels\.$"):
        recipe_runs.main()

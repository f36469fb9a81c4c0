"""The fit behind auto: from scores that follow a law it finds that law."""

import json
import sys

import numpy as np
import pytest
from conftest import ROOT

from diffusion.training.rule import BATCH, Law

sys.path.insert(0, str(ROOT / "benchmarks"))
import recipe

LAW = Law(floor=0.06, a=0.02, alpha=1.8, gamma=0.8, b=0.03, beta=1.5, d=0.1, delta=0.5)


def trainings(noise=0.0):
    random = np.random.default_rng(0)
    for images in (8_000, 31_000, 76_000, 196_000, 800_000):
        for width in (16, 32, 48, 64, 96):
            parameters = 700 * width**2
            fid = LAW(images, parameters) * np.exp(noise * random.standard_normal())
            for scale, worse in ((2.0, 1.2), (2.5, 1.0), (3.0, 1.1)):
                score = {"images": images, "width": width, "parameters": parameters, "scale": scale}
                yield {**score, "fid": worse * float(fid), "batch": BATCH, "seed": 0}


def test_it_finds_the_law_that_made_the_scores():
    rows = recipe.best(list(trainings()))
    assert len(rows) == 25 and {row["scale"] for row in rows} == {2.5}
    assert recipe.fitted(rows, LAW.floor, LAW.beta) == pytest.approx(LAW, rel=0.05)


def test_noise_of_a_few_percent_leaves_it_as_good():
    rows = recipe.best(list(trainings(noise=0.05)))
    found = recipe.fitted(rows, LAW.floor, LAW.beta)
    for row in rows:
        truth = LAW(row["images"], row["parameters"])
        assert found(row["images"], row["parameters"]) == pytest.approx(truth, rel=0.1)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"images": 8000, "width": 16}', 'line 3, has no "fid": add it'),
        ('{"width": 16, "score": 0.9}', 'line 3, has no "images", "fid": add it'),
        ("[8000, 16, 0.9]", "line 3, is no score: write it as"),
        ("8000 16 0.9", "line 3, is no score: write it as"),
    ],
)
def test_what_a_file_lacks_is_one_sentence(tmp_path, line, words):
    file = tmp_path / "runs.jsonl"
    with pytest.raises(SystemExit, match="runs.jsonl cannot be read .*: give a file with one score a line"):
        recipe.read(file)
    file.write_text(f"{json.dumps(next(trainings()))}\n\n{line}\n", encoding="utf-8")
    with pytest.raises(SystemExit, match=words) as told:
        recipe.read(file)
    assert "\n" not in str(told.value)


def test_best_scales_are_a_power_of_the_images():
    rows = [{"images": n, "scale": 1 + 1.3 * (n / 1e5) ** -0.4} for n in (10_000, 50_000, 200_000)]
    value = 1 + 1.3 * 0.76**-0.4
    assert f"{value:.2f} after 76,000 images" in recipe.slope(rows)
    assert recipe.slope(rows[:1]) == "Too few scales for a fit."


def test_a_file_becomes_the_lines_to_copy_and_a_table(tmp_path, monkeypatch, capsys):
    file, page = tmp_path / "runs.jsonl", tmp_path / "page.md"
    file.write_text("\n".join(json.dumps(row) for row in trainings()), encoding="utf-8")
    page.write_text("<!-- recipe: made by benchmarks/recipe.py -->\nold\n<!-- end -->\n", encoding="utf-8")
    monkeypatch.setattr(recipe, "PAGE", page)
    monkeypatch.setattr(sys, "argv", ["recipe.py", str(file), "--floor", "0.06", "--beta", "1.5", "--page"])
    recipe.main()
    said = capsys.readouterr().out
    assert said.startswith("LAW = Law(floor=0.0") and "25 trainings; the law is off by 0 %" in said
    assert page.read_text(encoding="utf-8").count("| 2.5 |") == 25
    file.write_text(json.dumps(next(trainings())), encoding="utf-8")
    with pytest.raises(SystemExit, match="holds 1 trainings: six coefficients need at least seven"):
        recipe.main()
    file.write_text("\n".join(json.dumps({**row, "n": 1000 + k % 2}) for k, row in enumerate(trainings())), "utf-8")
    with pytest.raises(SystemExit, match=r"holds FIDs of \['1000', '1001'\] images: one law is of one number"):
        recipe.main()

"""Reports as programs, as people in a text editor, and as a browser see them."""

import json
import re
import shutil
import subprocess

import pytest
import torch
from conftest import CHROMIUM

from diffusion.data.images import Images
from diffusion.evaluation.document import markdown_table
from diffusion.evaluation.illustrations import illustrate
from diffusion.evaluation.report import comparison, summary, write_report
from diffusion.evaluation.seeds import over_seeds


@pytest.fixture(scope="module")
def scored(scorer, mini):
    """(images, scores) of 600 test images, and of 400 training images without labels."""
    first, second = mini.test.subset(torch.arange(600)), Images(mini.train.images[:400])
    return [(first, scorer.score(first, "first")), (second, scorer.score(second, "second"))]


def cells(markdown, name):
    row = next(line for line in markdown.splitlines() if line.startswith(f"| {name} "))
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_one_set_stands_beside_real_images_with_the_ratio(scored):
    scores = scored[0][1]
    text = summary([scores])
    assert cells(text, "score") == ["score", "better", "generated, n = 600", "real, n = 600", "generated / real"]
    fid = cells(text, "FID")
    assert [float(cell) for cell in fid[2:4]] == [round(scores["fid"], 3), round(scores["real"]["fid"], 3)]
    assert float(fid[4]) == pytest.approx(scores["fid"] / scores["real"]["fid"], rel=1e-2)


def test_sets_of_different_n_are_marked(scored, tmp_path):
    sets, names = [scores for _, scores in scored], ["a.npz", "b/"]
    heads, rows = comparison(sets, names)
    assert heads == ["score", "better", "a.npz, n = 600", "real, n = 600", "b/, n = 400 †", "real, n = 400 †"]
    assert all(len(row) == len(heads) for row in rows)
    accuracy = next(row for row in rows if row[0].startswith("accuracy"))
    fid = next(row for row in rows if row[0] == "FID")
    assert fid[2] == f"{sets[0]['fid']:.3f} ({sets[0]['fid'] / sets[0]['real']['fid']:.3g}×)"
    assert accuracy[4] == "–" and float(accuracy[5]) > 0.8  # the unlabelled set has none, real images have
    write_report(tmp_path, sets, {}, names=names)
    text = (tmp_path / "report.md").read_text()
    assert "† Another n than in the first column" in text and "b/: These images have no labels" in text
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert [one["name"] for one in metrics["sets"]] == names and metrics["fid"] == sets[0]["fid"]


def test_sets_of_one_n_share_the_column_of_real_images(scored):
    scores = scored[0][1]
    heads, _ = comparison([scores, dict(scores)], ["a", "b"])
    assert heads == ["score", "better", "a, n = 600", "b, n = 600", "real, n = 600"]


def test_a_larger_set_than_there_are_real_images_gets_no_ratio(scorer, mini):
    found = scorer.score(mini.train.subset(torch.arange(1100)), "many")
    text = summary([found])
    assert cells(text, "FID")[4] == "†" and "real (whole test set), n = 1,000" in text


def test_seeds_give_a_spread(scorer, mini):
    several = [scorer.score(mini.train.subset(torch.arange(i, 800, 2)), "x") for i in (0, 1)]
    both = over_seeds(several)
    assert cells(summary([both]), "FID")[2] == f"{both['fid']:.3f} ± {both['seeds']['fid']:.3f}"
    assert "±" not in cells(summary([both]), "Inception Score")[3]  # real images have no seeds
    assert both["seeds"]["memorisation.nearest_distance"] >= 0


def test_the_report_is_whole(scorer, scored, tmp_path):
    images = scored[0][0]
    scores = scorer.score(images, "first")
    pictures = illustrate(tmp_path, scorer, images, scores, scorer.nearest)
    write_report(tmp_path, [scores], {"step": 3}, pictures)
    assert [name for name, _ in pictures] == [
        "grid.png",
        "neighbours.png",
        "classes.png",
        "confusion.png",
        "fid_infinite.png",
    ]
    markdown, page = (tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()
    for heading in ("# Scores", "## Spread over disjoint subsets", "## Classes", "## Protocol"):
        assert f"\n{heading}\n" in f"\n{markdown}"
    assert "2 subsets of 300" in markdown and "- reference: 60000 training images of fashion_mnist" in markdown
    assert "n = 600" in page and page.count("data:image/png;base64,") == 5
    assert not re.search(r"(src|href)=\"(?!data:)", page)  # it needs no other file
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["fid"] == scores["fid"] and metrics["step"] == 3 and metrics["status"] == "finished"


def test_cells_cannot_break_a_table():
    assert markdown_table(["a|b"], [["c"]]) == "| a\\|b |\n| --- |\n| c |"


@pytest.mark.browser
def test_the_page_in_a_browser(scorer, mini, tmp_path):
    images = mini.test.subset(torch.arange(400))
    scores = scorer.score(images, "<b>not markup</b>")
    folder = tmp_path / "made"
    write_report(folder, [scores], {}, illustrate(folder, scorer, images, scores, scorer.nearest))
    page = tmp_path / "mailed.html"
    # Pictures report their own size into the title once all is loaded.
    probe = (
        "<script>addEventListener('load', () => { document.title = 'widths ' + "
        "[...document.images].map(i => i.naturalWidth).join(' ') + ' overflow ' + "
        "(document.documentElement.scrollWidth > innerWidth) })</script>"
    )
    page.write_text((folder / "report.html").read_text().replace("</body>", f"{probe}</body>"))
    shutil.rmtree(folder)  # nothing but the one file
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    quiet = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command = [CHROMIUM, *flags, *quiet, "--window-size=1000,800", "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    widths, overflow = re.search(r"<title>widths ([\d ]+) overflow (\w+)</title>", done.stdout).groups()
    assert len(widths.split()) == 5 and min(map(int, widths.split())) > 100
    assert overflow == "false"
    assert "&lt;b&gt;not markup&lt;/b&gt;" in done.stdout and "<td>FID</td>" in done.stdout

"""Classes in figures and reports: names of every kind, and 100 to 1,000 of them."""

import html
import json
import re

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.cbook import is_math_text

from diffusion.data.images import ImageData, Images
from diffusion.drawing.names import captions
from diffusion.drawing.pictures import save_pngs
from diffusion.evaluation import plots
from diffusion.evaluation.classes import class_blocks, class_scores
from diffusion.evaluation.document import Block, as_html, as_markdown, literal, table
from diffusion.evaluation.report import write_report
from diffusion.evaluation.samples import load_samples

SHORT = "T-shirt Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag Ankle-boot".split()
ODD = ["猫", "café", "🦀 crab", "שלום", "x" * 60, "a\nb", "$x_1$", r"$\frac$", "_u_ *s* `c`", "<b>|&amp;", "\udcff", ""]


def scores_of(names, n=20):
    """n images of each class; class k has k % n of them taken for the next."""
    count = len(names)
    wrong = np.arange(count) % n
    counts = np.diag(n - wrong)
    counts[np.arange(count), (np.arange(count) + 1) % count] += wrong
    one = {
        "confusion": counts.tolist(),
        "class_accuracy": (1 - wrong / n).tolist(),
        "class_fid": (wrong + 1.0).tolist(),
        "class_diversity": [10.0] * count,
    }
    common = {"n": n * count, "fid": 2.0, "kid": 0.001, "notes": [], "protocol": {"images": "samples=my_dir/*a*"}}
    real = {**one, "confusion": np.diag([n] * count).tolist(), "n": n * count, "fid": 1.0, "whole_test_set": False}
    return {"class_names": names, **common, **one, "real": real}


def boxes(figure):
    """Width and height in pixels of each axes, as drawn."""
    plots.pixels(figure)
    return [(axes.get_window_extent().width, axes.get_window_extent().height) for axes in figure.axes]


# ------------------------------------------------------------------------------------------------- figures


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("draw", [plots.confusion, plots.class_bars])
@pytest.mark.parametrize("names", [ODD, [f"{'a long name of a class, no. ' * 2}{k}" for k in range(20)]])
def test_no_name_makes_a_figure_small(draw, names):
    usual, odd = (boxes(draw(scores_of(each))) for each in (SHORT, names))
    for (width, height), (least_width, least_height) in zip(odd, usual, strict=True):
        assert width > 0.85 * least_width and height > 0.85 * least_height


@pytest.mark.filterwarnings("error")
def test_names_are_no_formulas():
    figure = plots.confusion(scores_of(ODD))
    axes = figure.axes[0]
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        texts = [label.get_text() for label in labels]
        assert [text.replace(r"\$", "$") for text in texts] == captions(ODD)
        assert not any(map(is_math_text, texts)) and {label.get_fontname() for label in labels} == {"DejaVu Sans"}
    assert is_math_text("$x_1$")


@pytest.mark.parametrize(
    ("names", "size"), [(SHORT, (11, 5.4)), (["a", "b"], (11, 5.4)), ("airplane automobile".split(), (11, 5.4))]
)
def test_the_figure_of_few_short_names_has_its_size(names, size):
    assert tuple(plots.confusion(scores_of(names)).get_size_inches()) == size
    bars = plots.class_bars(scores_of(names))
    assert tuple(bars.get_size_inches()) == pytest.approx((9, 3 * 2.6))
    assert {label.get_rotation() for label in bars.axes[0].get_xticklabels()} == {0}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("count", "blocks"), [(21, 21), (100, 100), (101, 51), (1000, 100), (999, 100)])
def test_many_classes_are_put_together(count, blocks):
    """Right classes lie on the diagonal; in blocks of two, so do half of those taken for the next."""
    scores = scores_of([f"c{k}" for k in range(count)])
    shown = plots.confusion(scores).axes[0].get_images()[0].get_array()
    assert shown.shape == (blocks, blocks) and np.allclose(shown.sum(axis=1), 100)
    per_block = -(-count // blocks)
    counts = np.array(scores["confusion"])[:per_block, :per_block]
    assert shown[0, 0] == pytest.approx(100 * counts.sum() / (20 * per_block))


@pytest.mark.filterwarnings("error")
def test_scores_of_many_classes_are_drawn_in_order():
    scores = scores_of([f"c{k}" for k in range(50)])
    scores["class_accuracy"][7] = None
    figure = plots.class_bars(scores)
    line = figure.axes[0].get_lines()[0].get_ydata()
    known = sorted(value for value in scores["class_accuracy"] if value is not None)
    assert line[:49].tolist() == known and np.isnan(line[49]) and not figure.axes[0].patches
    plots.pixels(figure)


def test_a_folder_named_like_a_formula_in_the_curves_of_a_sweep():
    settings = {"sampler": "DDIM", "seed": 0, "weights": "w", "guidance": 1.0}
    jobs = [
        {
            "settings": {**settings, "checkpoint": rf"run $\{name}$", "steps": steps, "evaluations": steps},
            **{"fid": 1.0 + steps, "recall": 0.5, "n": 10, "protocol": {}, "real": {"fid": 0.1, "n": 10}},
        }
        for name in ("a", "b")
        for steps in (5, 10)
    ]
    plots.pixels(plots.sweep_curves(jobs))  # which Matplotlib would refuse as a formula


# ------------------------------------------------------------------------------------------------- documents


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Ankle-boot, n = 600 (whole test set) † 0.01 < ½", "Ankle-boot, n = 600 (whole test set) † 0.01 < ½"),
        ("features=classifier [0, 1] class_fid C:\\data #3", "features=classifier [0, 1] class_fid C:\\data #3"),
        ("_u_ __init__ a_b", r"\_u\_ \_\_init\_\_ a_b"),
        ("*a* `b` $c$ ~~d~~", r"\*a\* \`b\` \$c\$ \~\~d\~\~"),
        ("<b> & &amp; [a](b)", r"\<b> & \&amp; [a]\(b)"),
        (r"a\*b", r"a\\\*b"),
        ("two\nlines", "two lines"),
    ],
)
def test_markdown_shows_a_text_as_it_is(text, shown):
    assert literal(text) == shown


def test_cells_of_a_document_are_no_markup():
    blocks = [Block("heading", "Scores"), table(["a|b", "*"], [["`x`|", "<i>y</i>"]])]
    assert as_markdown(blocks).splitlines()[2:] == [r"| a\|b | \* |", "| --- | --- |", r"| \`x\`\| | \<i>y\</i> |"]


def test_a_document_is_utf_8(tmp_path):
    """Also where the name of a file had bytes that are no letters."""
    blocks = [Block("text", "samples=\udcff.npz, 猫")]
    assert "samples=?.npz, 猫" in as_markdown(blocks) and "samples=?.npz, 猫" in as_html(blocks, tmp_path)


@pytest.mark.filterwarnings("error")
def test_odd_names_in_a_report(tmp_path):
    scores = scores_of(ODD)
    write_report(tmp_path, [scores], {})
    markdown, page = ((tmp_path / f"report.{kind}").read_text(encoding="utf-8") for kind in ("md", "html"))
    rows = [line for line in markdown[markdown.index("## Classes") :].splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(ODD) and all(len(re.findall(r"(?<!\\)\|", row)) == 8 for row in rows)
    assert rows[2].startswith("| #0 猫 |") and rows[7].startswith("| #5 a b |") and rows[-1].startswith("| #11 |")
    told = [
        "#0 猫",
        "café",
        "#2 🦀 crab",
        "#3 שלום",
        "x" * 60,
        "#5 a b",
        "$x_1$",
        r"$\frac$",
        "_u_ *s* `c`",
        "<b>|&amp;",
    ]
    first = [html.unescape(cell) for cell in re.findall(r"<tr><td>(.*?)</td>", page)][-len(ODD) :]
    assert first == [*told, "#10", "#11"]
    assert json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["class_names"] == ODD


def test_up_to_forty_classes_are_listed_and_of_more_the_weakest():
    names = [f"c{k}" for k in range(41)]
    whole = class_blocks(scores_of(names[:40]))
    assert [row[0] for row in whole[1].rows[1:]] == [f"#{k} c{k}" for k in range(40)]
    heading, text, shown = class_blocks(scores_of(names))[:3]
    assert heading.text == "Classes" and text.text.startswith("The 30 of 41 classes with the lowest accuracy.")
    wrong = [int(row[0].split()[1][1:]) % 20 for row in shown.rows[1:]]
    assert len(wrong) == 30 and wrong == sorted(wrong, reverse=True) and shown.rows[1][:2] == ["#19 c19", "0.050"]
    unknown = scores_of(names)
    unknown["class_accuracy"] = unknown["confusion"] = None
    blocks = class_blocks(unknown)
    assert "with the highest FID" in blocks[1].text and blocks[2].rows[1][:2] == ["#19 c19", "20.000"]
    assert len(blocks) == 3  # no pairs


def test_ten_classes_are_listed_by_their_names_alone():
    blocks = class_blocks(scores_of(SHORT), " of a.npz")
    assert [block.kind for block in blocks] == ["heading", "table"] and blocks[0].text == "Classes of a.npz"
    assert [row[0] for row in blocks[1].rows] == ["class", *SHORT]


def test_the_pairs_that_are_confused_most():
    blocks = class_blocks(scores_of([f"c{k}" for k in range(21)]))
    assert blocks[2].text == "Classes taken for others"
    rows = blocks[-1].rows
    assert rows[0] == ["asked for", "recognised", "% of generated", "% of real"]
    assert rows[1] == ["#19 c19", "#20 c20", "95", "0"] and rows[2] == ["#18 c18", "#19 c19", "90", "0"]
    assert len(rows) == 1 + 19  # classes 0 and 20 are always right


def test_unlabelled_images_have_no_classes():
    scores = scores_of(SHORT) | dict.fromkeys(("class_accuracy", "class_fid", "class_diversity", "confusion"))
    assert class_scores(scores) == [] and class_blocks(scores) == []


def test_a_report_of_a_thousand_classes_is_small(tmp_path):
    scores = scores_of([f"n{k:08d}" for k in range(1000)])
    pictures = [("confusion.png", "a"), ("classes.png", "b")]
    for (file, _), draw in zip(pictures, (plots.confusion, plots.class_bars), strict=True):
        plots.save_figure(tmp_path / file, draw(scores))
    write_report(tmp_path, [scores], {}, pictures)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes["report.md"] < 10_000 and sizes["report.html"] < 1_000_000 and sizes["metrics.json"] < 7_000_000
    found = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert found["confusion"] == scores["confusion"] and found["class_accuracy"] == scores["class_accuracy"]


# --------------------------------------------------------------------------------------------- back from files


def test_images_are_read_back_with_the_classes_they_were_written_with(tmp_path):
    names = ["a/b", "猫", "a b", "100%", "x" * 210, "_", "%2E"]
    pixels = torch.arange(7, dtype=torch.uint8).view(7, 1, 1, 1).repeat(2, 1, 8, 8)
    labels = torch.arange(14) % 7
    save_pngs(tmp_path / "images", pixels, labels, names)
    data = ImageData("odd", Images(pixels, labels), Images(pixels, labels), names)
    found = load_samples(str(tmp_path / "images"), data)
    again, known = found.select(torch.arange(14))
    assert known is not None and torch.equal(again[:, 0, 0, 0].long(), known)


def test_matplotlib_has_the_font():
    assert matplotlib.rcParamsDefault["font.sans-serif"][0] == "DejaVu Sans"

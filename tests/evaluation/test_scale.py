"""The other end of the scale: noise, black images and blurred ones, beside real images at the same n."""

import json
import re

import pytest
import torch
from conftest import CACHE, toy

from diffusion.data.images import ImageData, Images
from diffusion.evaluation import scale as module
from diffusion.evaluation.features.classifier import ClassifierFeatures
from diffusion.evaluation.features.pca import PCAFeatures
from diffusion.evaluation.reference import Reference, reference_of
from diffusion.evaluation.report import summary, write_report
from diffusion.evaluation.scale import black, blindness, blurred, in_short, narrowness, noise, scale
from diffusion.evaluation.scoring import Scorer

CPU = torch.device("cpu")


def test_the_poor_images_are_what_they_are_called(generator):
    point = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
    point[0, 0, 14, 14] = 90
    found = blurred(point, generator)
    assert found.sum() == 90 and (found[0, 0, 13:16, 13:16] == 10).all()  # a ninth for each of 3×3
    assert (blurred(torch.full((2, 3, 64, 64), 77, dtype=torch.uint8), generator) == 77).all()  # also at the rim
    levels = noise(torch.zeros(100, 3, 16, 16, dtype=torch.uint8), generator).double()
    assert abs(levels.mean() - 127.5) < 3 * (256**2 / 12 / levels.numel()) ** 0.5  # of 0 … 255, all alike
    assert levels.min() == 0 and levels.max() == 255
    assert not black(levels.byte(), generator).any()


def test_the_scale_is_what_the_scorer_says_of_these_images(scorer, mini):
    found = scorer.scale
    assert found["n"] == 1000 and list(found) == ["n", "real", "blurred", "noise", "black"]
    dark = scorer.score(Images(torch.zeros_like(mini.test.images)), "black")
    assert dark["fid"] == pytest.approx(found["black"]["fid"]) and dark["scale"] is found
    assert found["real"]["fid"] == pytest.approx(scorer.real(1000)["fid"])
    assert found["real"]["accuracy"] == scorer.real(1000)["accuracy"] and found["noise"]["accuracy"] < 0.2
    fids = [found[kind]["fid"] for kind in ("real", "blurred", "noise")]
    assert fids[0] * 5 < fids[1] < fids[2] and found["black"]["fid"] > 50 * fids[0]
    assert narrowness(found) is None


def test_it_is_computed_once(mini, monkeypatch):
    reference = Reference(PCAFeatures(mini, CPU, CACHE))
    first = scale(reference)
    assert first["noise"]["accuracy"] is None and first["noise"]["inception_score"] is None  # no class probabilities
    monkeypatch.setattr(module, "_measure", None)
    assert scale(Reference(PCAFeatures(mini, CPU, CACHE))) == first


def test_other_test_images_have_a_scale_of_their_own(tmp_path):
    data = toy()
    whole = scale(Reference(PCAFeatures(data, CPU, str(tmp_path), components=4)))
    other = ImageData("toy", data.train, data.train.subset(torch.arange(30)), data.class_names)
    assert whole["n"] == 20 and scale(Reference(PCAFeatures(other, CPU, str(tmp_path), components=4)))["n"] == 30


@pytest.mark.parametrize("labelled", [True, False])
def test_two_test_images_and_no_labels_have_a_scale(tmp_path, labelled):
    data, few = toy(), toy().test.images[:2]
    images = Images(few, torch.tensor([0, 1]) if labelled else None)
    train = data.train if labelled else Images(data.train.images)
    tiny = ImageData("tiny", train, images, data.class_names if labelled else [])
    found = scale(Reference(PCAFeatures(tiny, CPU, str(tmp_path), components=4)))
    assert found["n"] == 2 and found["noise"]["precision"] is None and found["black"]["fid"] > 0


@pytest.mark.parametrize(
    ("real", "far", "said"),
    [
        (1.0, 5.0, None),
        (0.0, 0.5, None),
        (1.0, 4.9, r"only 4\.9 times that of real test images, 1\.000 \(n = 20 each\)"),
        (3.0, 2.0, "uniform noise has the FID 2.000, no more than that of real test images, 3.000"),
        (0.0, 0.0, "no more than that"),
    ],
)
def test_a_scale_upside_down_is_told(real, far, said):
    found = {"n": 20, "real": {"fid": real}, "noise": {"fid": far}}
    if said is None:
        assert narrowness(found) is None
    else:
        assert re.search(said, narrowness(found))


def test_the_report_the_summary_and_metrics_json_show_the_scale(scorer, mini, tmp_path):
    scores = scorer.score(mini.test.subset(torch.arange(100)), "few")
    write_report(tmp_path, [scores], {})
    text, page = ((tmp_path / name).read_text(encoding="utf-8") for name in ("report.md", "report.html"))
    row = next(line for line in text.partition("## The scale")[2].splitlines() if line.startswith("| FID "))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    kinds = ("real", "blurred", "noise", "black")
    assert cells[2:] == [f"{scorer.scale[kind]['fid']:.3f}" for kind in kinds]
    assert "n = 1,000 of each" in text and "<h2>The scale</h2>" in page
    assert json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["scale"] == scorer.scale
    assert summary([scores]).endswith(f"\n{in_short(scorer.scale)}")
    assert not any("mean little" in note for note in scores["notes"])


def test_scores_of_before_have_no_scale_and_make_a_report_all_the_same(scorer, mini, tmp_path):
    scores = scorer.score(mini.test.subset(torch.arange(100)), "few")
    write_report(tmp_path, [{name: value for name, value in scores.items() if name != "scale"}], {})
    assert "## The scale" not in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_a_narrow_scale_is_a_sentence_of_the_report(tmp_path):
    """Real images that are noise themselves: nothing is farther from them than they are."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (400, 1, 8, 8), generator=generator, dtype=torch.uint8)
    data = ImageData("noise", Images(pixels[:300]), Images(pixels[300:]), [])
    scores = Scorer(PCAFeatures(data, CPU, str(tmp_path), components=4)).score(Images(pixels[:50]), "noise")
    assert scores["scale"]["noise"]["fid"] < 5 * scores["scale"]["real"]["fid"]
    assert "By these features, uniform noise has the FID" in scores["notes"][0]
    assert scores["notes"][0].endswith("(n = 100 each), so these scores mean little.")


@pytest.mark.parametrize(("grain", "blind"), [(60, True), (0, False)])
def test_blurred_images_that_score_better_are_a_sentence_of_the_report(tmp_path, generator, grain, blind):
    """Training images of one grey level each, and test images that have grain besides, which a blur takes away."""
    level = torch.randint(60, 190, (300, 1, 1, 1), generator=generator)
    pixels = level + torch.zeros(300, 1, 8, 8, dtype=torch.long)
    pixels[200:] += torch.randint(-grain, grain + 1, (100, 1, 8, 8), generator=generator)
    images = Images(pixels.to(torch.uint8))
    data = ImageData("grain", images.subset(torch.arange(200)), images.subset(torch.arange(200, 300)), [])
    scorer = Scorer(PCAFeatures(data, CPU, str(tmp_path), components=4))
    real, soft = (scorer.scale[kind]["fid"] for kind in ("real", "blurred"))
    assert (soft < real) == blind == (blindness(scorer.scale) is not None)  # alike to the bit where there is no grain
    scores = scorer.score(data.test, "grain")
    said = f"Blurred test images have the FID {soft:.3f}, better than that of real ones, {real:.3f} (n = 100 each)"
    assert [note.startswith(said) for note in scores["notes"]].count(True) == blind
    assert ("; blurred images score better than real ones." in summary([scores])) == blind
    write_report(tmp_path / "made", [scores], {})
    assert (said in (tmp_path / "made" / "report.md").read_text(encoding="utf-8")) == blind


def test_what_was_read_to_choose_an_extractor_is_not_read_again_to_score(tmp_path, monkeypatch):
    features = PCAFeatures(toy(), CPU, str(tmp_path), components=4)
    reference = reference_of(features)
    found = scale(reference)
    for name in ("_measure", "remembered"):
        monkeypatch.setattr(module, name, None)
    monkeypatch.setattr(Reference, "__init__", None)
    scorer = Scorer(features)
    assert scorer.reference is reference and scorer.scale is found


# ------------------------------------------------------------------------------------------ a classifier in doubt


def test_a_classifier_that_learned_nothing_says_so_where_it_is_asked_for(tmp_path):
    """Classes by the toss of a coin."""
    generator = torch.Generator().manual_seed(0)
    images = Images(
        torch.randint(0, 256, (60, 1, 8, 8), generator=generator, dtype=torch.uint8),
        torch.randint(0, 2, (60,), generator=generator),
    )
    data = ImageData("coin", images, images.subset(torch.arange(20)), ["heads", "tails"])
    features = ClassifierFeatures(data, CPU, str(tmp_path), epochs=1)
    scores = Scorer(features).score(images.subset(torch.arange(10)), "coins")
    said = "The classifier of data=coin recognises"
    assert scores["notes"][0].startswith(said) and scores["protocol"]["doubt"].startswith(said)
    assert "so these scores mean little; Inception Score and accuracy are left out" in scores["protocol"]["doubt"]
    assert scores["inception_score"] is None and scores["accuracy"] is None and scores["fid"] >= 0
    write_report(tmp_path / "made", [scores], {})
    assert said in (tmp_path / "made" / "report.md").read_text(encoding="utf-8")

"""Whole scores of whole sets of images: what each catches, what is left out, and that nothing is by chance."""

import numpy as np
import pytest
import torch
from conftest import CACHE

from diffusion.data.images import ImageData, Images
from diffusion.evaluation.features.classifier import ClassifierFeatures
from diffusion.evaluation.features.pca import PCAFeatures
from diffusion.evaluation.illustrations import illustrate
from diffusion.evaluation.metrics import frechet_distance
from diffusion.evaluation.reference import even_order
from diffusion.evaluation.report import write_report
from diffusion.evaluation.scoring import Scorer
from diffusion.evaluation.seeds import average, over_seeds
from diffusion.system.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def real(scorer, mini):
    """Scores of the test set, given as if it had been generated."""
    return scorer.score(mini.test, "test")


def bytes_of(pixels):
    return pixels.round().clamp(0, 255).to(torch.uint8)


# -------------------------------------------------------------------------------------- real images score as real


def test_real_images_score_like_the_floor(real):
    floor = real["real"]
    assert (
        floor["n"] == real["n"] == 1000
        and not floor["whole_test_set"]
        and real["notes"] == ["FID per class needs more than 192 images of a class, and is left out."]
    )
    for name in ("fid", "kid", "precision", "recall", "density", "coverage", "diversity"):
        assert np.isclose(real[name], floor[name], rtol=1e-6), name  # the same images in another order
    assert real["accuracy"] == floor["accuracy"] and real["class_accuracy"] == floor["class_accuracy"]
    assert real["memorisation"] == floor["memorisation"] and real["repeated"] == 0
    assert real["memorisation"]["nearer_than_real"] == 0.01  # by definition


def test_the_same_images_get_the_same_digits_twice(scorer, mini, real):
    torch.manual_seed(5), np.random.seed(5)
    state = torch.random.get_rng_state()
    again = Scorer(ClassifierFeatures(mini, CPU, CACHE)).score(mini.test, "test")
    assert again == real
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_order_of_the_images_does_not_matter(scorer, mini, real):
    """Sorted by class, unshuffled splits would each hold one class and the Inception Score would be near 1."""
    order = mini.test.labels.argsort()
    found = scorer.score(mini.test.subset(order), "sorted")
    assert abs(found["inception_score"] - real["inception_score"]) < 0.3 and found["inception_score"] > 6
    assert np.isclose(found["fid"], real["fid"], rtol=1e-6)
    assert abs(found["fid_infinite"] - real["fid_infinite"]) < 0.1  # the blocks are random, too


def test_the_protocol_says_how_it_was_measured(real):
    protocol = real["protocol"]
    assert protocol["images"] == "test" and protocol["n"] == 1000
    assert protocol["reference"] == "60000 training images of fashion_mnist"
    assert "1000 test images of fashion_mnist_mini" in protocol["floor"]
    assert "weights 4ba12b5c1d4d669b" in protocol["scorer"] and "127.5" in protocol["preprocessing"]
    assert "k = 3" in protocol["neighbours"] and "6000 training images" in protocol["neighbours"]


# --------------------------------------------------------------------------------------- what each score catches


def test_noise_blur_and_mirroring_are_seen_by_the_distances(scorer, mini, real):
    noise = torch.randn(mini.test.images.shape, generator=torch.Generator().manual_seed(0))
    for images in (
        bytes_of(mini.test.images + 0.05 * 255 * noise),
        bytes_of(torch.nn.functional.avg_pool2d(mini.test.images.float(), 3, 1, 1)),
        mini.test.images.flip(3),  # the scorer was trained without flips
    ):
        found = scorer.score(Images(images), "faulty")
        assert found["fid"] > 2 * real["fid"] and found["kid"] > real["kid"] + 3e-4


def test_a_missing_class_costs_recall_but_not_precision(scorer, mini, real):
    kept = mini.test.labels != 8
    found = scorer.score(Images(mini.test.images[kept], mini.test.labels[kept]), "no bags")
    assert found["recall"] < real["recall"] - 0.04 and abs(found["precision"] - real["precision"]) < 0.03
    assert found["class_accuracy"][8] is None and found["confusion"][8] == [0] * 10


def test_repeated_images_are_seen(scorer, mini, real):
    few = Images(mini.test.images[:50].repeat(20, 1, 1, 1), mini.test.labels[:50].repeat(20))
    found = scorer.score(few, "fifty images")
    assert found["repeated"] == 0.95 and found["recall"] < 0.1 and found["coverage"] < 0.5 * real["coverage"]
    assert found["precision"] > 0.6


def test_copies_of_training_images_are_seen_by_nothing_but_the_neighbours(scorer, mini, real):
    copies = mini.train.subset(even_order(mini.train.labels, 6000)[:1000])
    found = scorer.score(copies, "copies")
    assert found["fid"] < 1.5 * real["fid"] and found["precision"] > 0.8 and found["recall"] > 0.8 * real["recall"]
    assert found["memorisation"]["copies"] == 1 and found["memorisation"]["nearer_than_real"] == 1
    assert found["memorisation"]["lonely_neighbour"] > 0.95 and found["memorisation"]["nearest_distance"] == 0


def test_wrong_labels_are_seen_by_the_accuracy_alone(scorer, mini, real):
    found = scorer.score(Images(mini.test.images, (mini.test.labels + 1) % 10), "shifted labels")
    assert found["accuracy"] < 0.05 and np.isclose(found["fid"], real["fid"])
    assert found["diversity"] > 0 and np.array(found["confusion"]).sum() == 1000


def test_fid_falls_with_n_and_its_extrapolation_hardly(scorer, mini):
    small, large = (scorer.score(mini.test.subset(torch.arange(n)), "test") for n in (500, 1000))
    assert small["fid"] > 1.5 * large["fid"] and small["fid"] < 3 * large["fid"]
    assert abs(large["fid_infinite"]) < 0.5 * large["fid"]


# --------------------------------------------------------------------------------------- what cannot be measured


def test_more_images_than_the_test_set_are_marked(scorer, mini):
    found = scorer.score(Images(mini.train.images[:1001]), "training images")
    assert found["real"]["whole_test_set"] and found["real"]["n"] == 1000
    assert found["accuracy"] is None and found["class_accuracy"] is None and found["class_diversity"] is None
    assert any("only 1000 real test images" in note for note in found["notes"])
    assert any("have no labels" in note for note in found["notes"])


def test_few_images_are_marked_or_refused(scorer, mini):
    found = scorer.score(mini.test.subset(torch.arange(50)), "few")
    assert found["fid_infinite"] is None and found["notes"][0].startswith("n = 50 is not larger than the 192 features")
    found = scorer.score(mini.test.subset(torch.arange(4)), "very few")
    assert found["precision"] is None and any("need more than 5 images" in note for note in found["notes"])
    with pytest.raises(UserError, match="n=1: scores need at least 2 images"):
        scorer.score(mini.test.subset(torch.arange(1)), "one")


def test_images_of_another_size_are_refused(scorer):
    with pytest.raises(UserError, match=r"\(1, 32, 32\).*fashion_mnist_mini is \(1, 28, 28\)"):
        scorer.score(Images(torch.zeros(3, 1, 32, 32, dtype=torch.uint8)), "padded")


def test_features_without_classes_leave_accuracy_out(mini):
    found = Scorer(PCAFeatures(mini, CPU, CACHE)).score(mini.test, "test")
    assert found["inception_score"] is None and found["accuracy"] is None and found["confusion"] is None
    assert found["class_fid"][0] > 0 and found["diversity"] > 0  # labels are known all the same
    assert any("which these features have not" in note for note in found["notes"])
    assert "64 principal components" in found["protocol"]["scorer"]


def test_pca_fid_is_what_anyone_can_recompute(mini):
    """Without our extractor, reference or cache: scikit-learn's components and the Fréchet distance of arrays."""
    from sklearn.decomposition import PCA

    train, test = (split.images.flatten(1).double().numpy() / 255 for split in (mini.train, mini.test))
    oracle = PCA(64, svd_solver="covariance_eigh").fit(train)
    expected = frechet_distance(oracle.transform(test), oracle.transform(train))
    found = Scorer(PCAFeatures(mini, CPU, CACHE)).score(mini.test, "test")
    assert np.isclose(found["fid"], expected, rtol=1e-4)


def test_the_floor_has_the_classes_in_their_own_proportions(tmp_path):
    """Random images of data with uneven classes score like real ones, not better."""
    generator = torch.Generator().manual_seed(0)

    def draw(n):
        labels = (torch.rand(n, generator=generator) < 0.1).long()
        pixels = torch.randint(0, 100, (n, 1, 6, 6), generator=generator) + 150 * labels.view(-1, 1, 1, 1)
        return Images(pixels.to(torch.uint8), labels)

    data = ImageData("uneven", draw(2000), draw(1000), ["many", "few"])
    scorer = Scorer(PCAFeatures(data, CPU, str(tmp_path), components=4))
    found = scorer.score(draw(300), "others")
    assert 0.2 < found["fid"] / found["real"]["fid"] < 5 or found["fid"] < found["real"]["fid"] + 0.01
    assert not any("other proportions" in note for note in found["notes"])
    even = draw(3000)
    order = torch.cat([torch.where(even.labels == k)[0][:150] for k in (0, 1)])
    found = scorer.score(even.subset(order), "even")
    assert found["fid"] > 5 * found["real"]["fid"] and any("other proportions" in note for note in found["notes"])


def test_hardly_any_images_without_class_probabilities_still_make_a_report(mini, tmp_path):
    scorer = Scorer(PCAFeatures(mini, CPU, CACHE))
    few = mini.test.subset(even_order(mini.test.labels, 1000)[:10])
    scores = scorer.score(few, "one of each class")
    assert scores["class_diversity"] == [None] * 10
    write_report(tmp_path, [scores], {}, illustrate(tmp_path, scorer, few, scores, scorer.nearest))
    assert "## Classes" not in (tmp_path / "report.md").read_text()


# ------------------------------------------------------------------------------------ seeds, and a trained classifier


def test_several_seeds_are_averaged(scorer, mini):
    several = [scorer.score(mini.train.subset(torch.arange(i, 1000, 2)), f"seed {i}") for i in (0, 1)]
    both = over_seeds(several)
    fids = [scores["fid"] for scores in several]
    assert np.isclose(both["fid"], np.mean(fids)) and np.isclose(both["seeds"]["fid"], np.std(fids, ddof=1))
    assert both["seeds"]["count"] == 2 and both["n"] == 500 and both["class_names"] == mini.class_names
    assert np.isclose(both["class_accuracy"][3], np.mean([scores["class_accuracy"][3] for scores in several]))
    assert both["real"] == several[0]["real"] and "2 samples" in both["protocol"]["seeds"]
    assert over_seeds(several[:1]) is several[0]
    assert average([{"a": [1, None], "b": "x"}, {"a": [2, 3], "b": "y"}]) == {"a": [1.5, None], "b": "x"}


def test_the_classification_accuracy_score_sees_wrong_labels(tmp_path):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 2
    pixels = torch.randint(0, 100, (400, 1, 8, 8), generator=generator) + 120 * labels.view(-1, 1, 1, 1)
    split = Images(pixels.to(torch.uint8), labels)
    data = ImageData("toy", split.subset(torch.arange(200)), split.subset(torch.arange(200, 400)), ["dark", "light"])
    scorer = Scorer(PCAFeatures(data, CPU, str(tmp_path), components=4))
    good = scorer.classification_accuracy(split.subset(torch.arange(100)))
    assert good["generated"] > 0.95 and good["real"] > 0.95 and good["real_n"] == 100
    wrong = scorer.classification_accuracy(Images(split.images[:100], 1 - labels[:100]))
    assert wrong["generated"] < 0.05 and wrong["real"] == good["real"]
    with pytest.raises(UserError, match="needs images with labels"):
        scorer.classification_accuracy(Images(split.images[:100]))

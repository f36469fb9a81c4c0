"""The scorer, what is cached, and how scores are put together."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion.data import ASSETS, ImageData, Images
from diffusion.datasets import fashion_mnist, fashion_mnist_mini
from diffusion.errors import UserError
from diffusion.evaluation import features as features_module
from diffusion.evaluation.classifier import (
    Classifier,
    classifier_accuracy,
    extract,
    load_classifier,
    save_classifier,
    train_classifier,
)
from diffusion.evaluation.features import ClassifierFeatures, cache_key, load_reference
from diffusion.evaluation.metrics import frechet_distance
from diffusion.evaluation.report import write_report
from diffusion.evaluation.scoring import load_samples, score_images

CPU = torch.device("cpu")
SCORER = ASSETS / "fashion_mnist_scorer.safetensors"


@pytest.fixture(scope="module")
def mini():
    return fashion_mnist_mini()


@pytest.fixture(scope="module")
def features(mini, tmp_path_factory):
    return ClassifierFeatures(mini, CPU, cache=str(tmp_path_factory.mktemp("cache")))


def toy(n=60, size=8, shift=0):
    """Two classes that anyone can tell apart: dark and light noise."""
    generator = torch.Generator().manual_seed(shift)
    labels = torch.arange(n) % 2
    pixels = torch.randint(0, 100, (n, 1, size, size), generator=generator) + 120 * labels.view(-1, 1, 1, 1)
    images = Images(pixels.to(torch.uint8), labels)
    return ImageData("toy", images, images.subset(torch.arange(20)), ["dark", "light"])


def test_the_classifier_has_the_described_shape():
    classifier = Classifier(1, 10)
    convolutions = [layer for layer in classifier.body if isinstance(layer, torch.nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [32, 64, 128, 192]
    assert [layer.stride[0] for layer in convolutions] == [1, 2, 2, 2]
    values, logits = classifier(torch.zeros(2, 1, 28, 28))
    assert values.shape == (2, 192) and logits.shape == (2, 10)


def test_features_do_not_depend_on_the_batch_and_the_mode_is_put_back(mini):
    classifier, _ = load_classifier(SCORER, CPU)
    classifier.train()
    images = mini.test.images[:7]
    together, _ = extract(classifier, [images])
    alone, _ = extract(classifier, images.split(1))
    assert classifier.training
    assert torch.allclose(together, alone, atol=1e-5)
    again, _ = extract(classifier, [images])  # nothing was learned by looking, and dropout is off
    assert torch.equal(together, again)


def test_the_packaged_scorer_and_statistics_belong_together(features):
    statistics, description, fingerprint = load_reference(ASSETS / "fashion_mnist_reference.npz")
    assert fingerprint == features.fingerprint == features.record["fingerprint"]
    assert description == features.reference_description == "60000 training images of fashion_mnist"
    assert all(np.array_equal(a, b) for a, b in zip(statistics, features.reference, strict=True))
    assert features.record["flips"] is False and features.record["held_out_images"] == 5000


@pytest.mark.full_data
def test_the_packaged_scorer_is_good_and_was_made_from_the_full_data(features):
    full = fashion_mnist("nowhere")
    classifier, record = load_classifier(SCORER, CPU)
    accuracy = classifier_accuracy(classifier, full.test.images, full.test.labels)
    assert accuracy >= 0.92
    assert abs(accuracy - record["test_accuracy"]) < 1e-3
    assert record["data_fingerprint"] == full.fingerprint()


@pytest.mark.slow
@pytest.mark.full_data
def test_the_packaged_statistics_are_those_of_the_training_images(features):
    train = fashion_mnist("nowhere").train.images
    values, _ = features.extract(train)
    assert frechet_distance(values, features.reference) < 1e-4


def test_training_a_scorer_selects_on_held_out_images_and_is_repeatable():
    epochs = []
    state = torch.random.get_rng_state()
    runs = [
        train_classifier(toy(), CPU, epochs=3, batch_size=16, log=lambda epoch, scores: epochs.append(scores))
        for _ in range(2)
    ]
    assert torch.equal(torch.random.get_rng_state(), state)  # training draws are left alone
    assert runs[0][1] == runs[1][1]
    record = runs[0][1]
    assert record["held_out_images"] == 12  # a fifth
    assert record["held_out_accuracy"] == max(scores["held_out/accuracy"] for scores in epochs[:3])


def test_a_scorer_goes_round_and_other_files_are_refused(tmp_path):
    classifier = Classifier(1, 2).eval()
    save_classifier(tmp_path / "a.safetensors", classifier, {"channels": 1, "class_names": ["a", "b"]})
    again, record = load_classifier(tmp_path / "a.safetensors", CPU)
    assert again.fingerprint() == classifier.fingerprint() and record["class_names"] == ["a", "b"]
    (tmp_path / "b.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="is not a scorer"):
        load_classifier(tmp_path / "b.safetensors", CPU)
    with pytest.raises(UserError, match="does not exist"):
        load_classifier(tmp_path / "c.safetensors", CPU)


def test_other_data_gets_a_scorer_of_its_own_once(tmp_path, monkeypatch):
    first = ClassifierFeatures(toy(), CPU, cache=str(tmp_path), epochs=1)
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr(features_module, "train_classifier", None)  # a second training would fail
    second = ClassifierFeatures(toy(), CPU, cache=str(tmp_path), epochs=1)
    assert second.fingerprint == first.fingerprint


def test_the_cache_key_holds_all_that_matters(monkeypatch):
    keys = {data.fingerprint() for data in (toy(), toy(size=10), toy(shift=1), toy(n=50))}
    assert len(keys) == 4
    before = cache_key("weights", "data")
    assert before != cache_key("other weights", "data")
    monkeypatch.setattr(features_module, "PREPROCESSING", "resized")
    assert before != cache_key("weights", "data")


def test_real_images_come_in_an_order_with_all_classes_even(features):
    _, logits, labels = features.real()
    for n in (10, 100, 500):
        assert np.bincount(labels[:n], minlength=10).tolist() == [n // 10] * 10
    assert (logits.argmax(axis=1) == labels).mean() > 0.88  # they still belong to their labels


def test_real_images_score_like_the_floor(features, mini):
    scores = score_images(mini.test.images, mini.test.labels, features, "test")
    real = scores["real"]
    assert real["n"] == scores["n"] == 1000 and not real["whole_test_set"]
    assert abs(scores["fid"] - real["fid"]) < 1e-9 and scores["accuracy"] == real["accuracy"]
    assert scores["class_accuracy"] == real["class_accuracy"]


def test_splits_are_shuffled(features, mini):
    """Sorted by class, the ten splits would each hold one class and the score would be near 1."""
    order = mini.test.labels.argsort()
    scores = score_images(mini.test.images[order], mini.test.labels[order], features, "sorted")
    assert scores["inception_score"] > 6


def test_more_images_than_the_test_set_are_marked(features, mini, tmp_path):
    scores = score_images(mini.train.images[:1001], None, features, "training images")
    assert scores["real"]["whole_test_set"] and scores["real"]["n"] == 1000
    assert scores["accuracy"] is None and scores["class_accuracy"] is None
    write_report(tmp_path, scores, {}, None)
    text = (tmp_path / "report.md").read_text()
    assert "the whole test set" in text and "not at the same n" in text
    assert json.loads((tmp_path / "metrics.json").read_text())["fid"] == scores["fid"]


def test_too_few_images_are_marked_or_refused(features, mini, tmp_path):
    write_report(tmp_path, score_images(mini.test.images[:50], None, features, "few"), {}, None)
    assert "this FID is unreliable" in (tmp_path / "report.md").read_text()
    with pytest.raises(UserError, match="n=1: scores need at least 2 images"):
        score_images(mini.test.images[:1], None, features, "one")


def test_quantisation_and_noise_cost(features, mini):
    clean = score_images(mini.test.images, None, features, "clean")["fid"]
    noise = torch.randn(mini.test.images.shape, generator=torch.Generator().manual_seed(0)) * 0.05 * 255
    noisy = (mini.test.images + noise).round().clamp(0, 255).to(torch.uint8)
    assert score_images(noisy, None, features, "noisy")["fid"] > 2 * clean
    assert score_images(mini.test.images.flip(3), None, features, "mirrored")["fid"] > 2 * clean  # no flips in training


def test_images_of_another_size_are_refused(features):
    with pytest.raises(UserError, match=r"\(1, 32, 32\).*fashion_mnist_mini is \(1, 28, 28\)"):
        score_images(torch.zeros(3, 1, 32, 32, dtype=torch.uint8), None, features, "padded")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"arr_0": np.zeros((3, 28, 28, 1))}, "it must be uint8"),
        ({"arr_0": np.zeros(3, np.uint8)}, "it must be uint8"),
        ({"other": np.zeros(3)}, "is no .npz with an array arr_0"),
        ({"arr_0": np.zeros((3, 28, 28, 1), np.uint8), "arr_1": np.zeros(2, int)}, "it must be N whole numbers"),
        ({"arr_0": np.zeros((3, 28, 28, 1), np.uint8), "arr_1": np.full(3, 10)}, "labels outside 0 … 9"),
        ({"arr_0": np.array([{}], dtype=object)}, "is no .npz with an array arr_0"),
    ],
)
def test_bad_sample_files_are_refused(mini, tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(UserError, match=message):
        load_samples(str(tmp_path / "bad.npz"), mini)


def test_samples_from_a_folder(mini, tmp_path):
    for i, name in enumerate(("Bag", "Sneaker")):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((28, 28), i, np.uint8)).save(tmp_path / name / "x.png")
    images, labels = load_samples(str(tmp_path), mini)
    assert images.shape == (2, 1, 28, 28) and labels.tolist() == [8, 7]
    Image.fromarray(np.zeros((30, 28), np.uint8)).save(tmp_path / "Bag" / "y.png")
    with pytest.raises(UserError, match="differ in size"):
        load_samples(str(tmp_path), mini)

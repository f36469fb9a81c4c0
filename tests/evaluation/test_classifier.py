"""The classifier that scores: its shape, its training, its file, and the packaged one."""

import pytest
import torch
from conftest import toy

from diffusion.data.datasets import fashion_mnist
from diffusion.data.images import ASSETS, encode
from diffusion.evaluation.classifier import (
    Classifier,
    classifier_accuracy,
    forward_frozen,
    load_classifier,
    save_classifier,
    train_classifier,
)
from diffusion.system.errors import UserError

CPU = torch.device("cpu")
SCORER = ASSETS / "fashion_mnist_scorer.safetensors"


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
    together, _ = forward_frozen(classifier, encode(images))
    alone = torch.cat([forward_frozen(classifier, encode(image))[0] for image in images.split(1)])
    assert classifier.training
    assert torch.allclose(together, alone, atol=1e-5)
    again, _ = forward_frozen(classifier, encode(images))  # nothing was learned by looking, and dropout is off
    assert torch.equal(together, again)


@pytest.mark.full_data
def test_the_packaged_scorer_is_good_and_was_made_from_the_full_data(features):
    full = fashion_mnist("nowhere")
    classifier, record = load_classifier(SCORER, CPU)
    accuracy = classifier_accuracy(classifier, full.test.images, full.test.labels)
    assert accuracy >= 0.92
    assert abs(accuracy - record["test_accuracy"]) < 1e-3
    assert record["data_fingerprint"] == full.fingerprint()


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

"""The classifier that scores: its shape, its training, its file, and the packaged one."""

import pytest
import torch
from conftest import toy

from diffusion.data.datasets import fashion_mnist
from diffusion.data.images import ASSETS, ImageData, Images, encode
from diffusion.evaluation.classifier import (
    Classifier,
    classifier_accuracy,
    first_stride,
    forward_frozen,
    hold_out,
    load_classifier,
    loss_and_accuracy,
    pace,
    save_classifier,
    train_classifier,
)
from diffusion.evaluation.metrics import frechet_distance
from diffusion.evaluation.reference import even_order
from diffusion.system.errors import UserError
from diffusion.system.randomness import SPLIT, stream

CPU = torch.device("cpu")
SCORER = ASSETS / "fashion_mnist_scorer.safetensors"


def test_the_classifier_has_the_described_shape():
    classifier = Classifier(1, 10)
    convolutions = [layer for layer in classifier.body if isinstance(layer, torch.nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [32, 64, 128, 192]
    assert [layer.stride[0] for layer in convolutions] == [1, 2, 2, 2]
    values, logits = classifier(torch.zeros(2, 1, 28, 28))
    assert values.shape == (2, 192) and logits.shape == (2, 10)


@pytest.mark.parametrize(
    ("size", "stride"),
    [((28, 28), 1), ((63, 63), 1), ((48, 32), 1), ((64, 64), 2), ((32, 128), 2), ((96, 97), 3), ((128, 128), 4)],
)
def test_of_large_images_the_first_layer_has_larger_steps_and_still_sees_every_pixel(size, stride):
    assert first_stride(size) == stride
    torch.manual_seed(0)
    classifier = Classifier(1, 2, stride).eval()
    x = torch.randn(1, 1, *size, requires_grad=True)
    classifier.body[0](x).square().sum().backward()
    assert bool((x.grad != 0).all())
    # at most as many places as an image of 64×64 would have, but for those that are cut at the edges
    assert classifier.body[0](x).shape[2:].numel() <= 64**2


def test_a_scorer_of_large_images_comes_back_from_its_file(tmp_path):
    data = toy(n=40, size=70)
    classifier, record = train_classifier(data, CPU, epochs=1)
    save_classifier(tmp_path / "scorer.safetensors", classifier, record)
    again, _ = load_classifier(tmp_path / "scorer.safetensors", CPU)
    images = encode(data.test.images)
    assert record["stride"] == 2
    assert torch.equal(forward_frozen(classifier, images)[0], forward_frozen(again, images)[0])
    save_classifier(tmp_path / "bad.safetensors", classifier, {**record, "stride": 10**6})
    with pytest.raises(UserError, match="is not a scorer"):
        load_classifier(tmp_path / "bad.safetensors", CPU)


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
    best = min(range(3), key=lambda i: epochs[i]["held_out/loss"])
    assert record["selected_epoch"] == best + 1 and record["held_out_loss"] == epochs[best]["held_out/loss"]
    assert record["held_out_accuracy"] == epochs[best]["held_out/accuracy"]


def test_the_loss_is_the_mean_cross_entropy_of_the_images():
    classifier, images = Classifier(1, 2).eval(), toy().test
    logits = forward_frozen(classifier, encode(images.images))[1].double()
    of_each = logits.exp().sum(dim=1).log() - logits[torch.arange(20), images.labels]
    assert abs(loss_and_accuracy(classifier, images.images, images.labels)[0] - float(of_each.mean())) < 1e-6


def test_few_images_get_small_batches_and_long_epochs_and_many_none_of_it():
    assert pace(60_000, 128) == (128, 468) and pace(2_560, 128) == (128, 20)  # as ever: one round
    assert pace(1_280, 128) == (64, 20) and pace(320, 128) == (16, 20)  # one round still
    assert pace(40, 128) == (16, 20)  # eight rounds
    assert pace(3, 128) == (3, 20) and pace(1, 128) == (2, 20) and pace(40, 8) == (8, 20)


def test_every_class_is_fitted_and_held_out_in_its_proportion():
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 18 + [3, 4])
    held, fitted = hold_out(labels, 5000, seed=0)
    assert torch.equal(torch.cat([held, fitted]).sort().values, torch.arange(100))
    assert labels[held].bincount(minlength=5).tolist() == [10, 6, 4, 0, 0]  # a fifth of 100
    assert set(labels[fitted].tolist()) == {0, 1, 2, 3, 4}  # also those with one image


@pytest.mark.parametrize("labels", [[0] * 30 + list(range(1, 20)), [0, 0, 1], list(range(9)) * 2, [7] * 5])
def test_no_class_is_held_out_whole(labels):
    labels = torch.tensor(labels)
    for seed in range(5):
        held, fitted = hold_out(labels, 5000, seed)
        assert len(held) == max(1, min(len(labels) // 5, len(labels) - len(set(labels.tolist()))))
        assert set(labels[fitted].tolist()) == set(labels.tolist())


def test_classes_of_one_image_each_cannot_all_be_fitted():
    held, fitted = hold_out(torch.arange(10), 5000, seed=0)
    assert len(held) == 1 and len(fitted) == 9


def test_large_data_are_split_by_chance_as_ever():
    labels = torch.arange(10).repeat(1000)
    order = torch.randperm(10_000, generator=stream(3, SPLIT))
    held, fitted = hold_out(labels, 1500, seed=3)
    assert torch.equal(held, order[:1500]) and torch.equal(fitted, order[1500:])


def fids(classifier, data, *sets):
    """FID of sets of images against the training images, by the features of a classifier."""
    features = [forward_frozen(classifier, encode(images))[0].numpy() for images in (data.train.images, *sets)]
    return [frechet_distance(values, features[0]) for values in features[1:]]


def test_a_scorer_of_few_images_learns_to_tell_them_from_noise(generator):
    """50 stripes, 25 upright and 25 level, each somewhere else: with one step an epoch it learned nothing."""

    def stripes(n):
        labels, places = torch.arange(n) % 2, torch.randint(0, 12, (n,), generator=generator)
        images = torch.zeros(n, 1, 12, 12, dtype=torch.uint8)
        for image, label, place in zip(images, labels.tolist(), places.tolist(), strict=True):
            (image[0] if label else image[0].T)[place] = 255
        return Images(images, labels)

    data = ImageData("stripes", stripes(50), stripes(100), ["upright", "level"])
    classifier, record = train_classifier(data, CPU, epochs=8)
    noise = torch.randint(0, 256, (100, 1, 12, 12), generator=generator, dtype=torch.uint8)
    real, far = fids(classifier, data, data.test.images, noise)
    assert far > 5 * real and record["test_accuracy"] > 0.9 and record["steps"] == 160


@pytest.mark.slow
@pytest.mark.parametrize(("n", "times"), [(100, 3), (200, 4), (400, 10), (1600, 50)])
def test_noise_is_far_from_garments_for_scorers_of_few_images(mini, generator, n, times):
    few = mini.train.subset(even_order(mini.train.labels, 6000)[:n])
    data = ImageData("few garments", few, mini.test, mini.class_names)
    classifier, _ = train_classifier(data, CPU)
    noise = torch.randint(0, 256, mini.test.images.shape, generator=generator, dtype=torch.uint8)
    real, far = fids(classifier, data, mini.test.images, noise)
    assert far > times * real


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

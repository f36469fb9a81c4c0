"""The scorer, the other extractors, and what is cached."""

import numpy as np
import pytest
import torch
from conftest import CACHE

from diffusion.data.datasets import fashion_mnist, fashion_mnist_mini
from diffusion.data.images import ASSETS, ImageData, Images, encode
from diffusion.evaluation import cache as cache_module
from diffusion.evaluation.cache import load_arrays, remembered
from diffusion.evaluation.classifier import (
    Classifier,
    classifier_accuracy,
    forward_frozen,
    load_classifier,
    save_classifier,
    train_classifier,
)
from diffusion.evaluation.features.automatic import automatic
from diffusion.evaluation.features.classifier import ClassifierFeatures
from diffusion.evaluation.features.inception import InceptionFeatures
from diffusion.evaluation.features.module import ModuleFeatures
from diffusion.evaluation.features.pca import PCAFeatures
from diffusion.evaluation.metrics import Moments, frechet_distance
from diffusion.evaluation.reference import KEPT, FeatureSet, Reference, even_order, extract_set, training_arrays
from diffusion.system.errors import UserError

CPU = torch.device("cpu")
SCORER = ASSETS / "fashion_mnist_scorer.safetensors"


@pytest.fixture(scope="module")
def features(mini):
    return ClassifierFeatures(mini, CPU, CACHE)


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
    together, _ = forward_frozen(classifier, encode(images))
    alone = torch.cat([forward_frozen(classifier, encode(image))[0] for image in images.split(1)])
    assert classifier.training
    assert torch.allclose(together, alone, atol=1e-5)
    again, _ = forward_frozen(classifier, encode(images))  # nothing was learned by looking, and dropout is off
    assert torch.equal(together, again)


def test_the_packaged_scorer_and_statistics_belong_together(features):
    packaged, reference = load_arrays(ASSETS / "fashion_mnist_reference.npz"), Reference(features)
    assert str(packaged["fingerprint"]) == features.fingerprint == features.record["fingerprint"]
    assert reference.description == "60000 training images of fashion_mnist"
    assert reference.moments.n == 60_000 and [part.n for part in reference.classes] == [6000] * 10
    assert np.array_equal(reference.moments.scatter, packaged["scatter"])
    assert features.record["flips"] is False and features.record["held_out_images"] == 5000


def test_the_packaged_classes_add_up_to_the_whole(features):
    reference = Reference(features)
    whole = sum(reference.classes, Moments.empty(192))
    assert np.allclose(whole.mean, reference.moments.mean, rtol=1e-12)
    assert np.allclose(whole.scatter, reference.moments.scatter, rtol=1e-4, atol=1e-2)  # float32 of up to 2e4


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
def test_the_packaged_statistics_are_those_of_the_training_images():
    full = ClassifierFeatures(fashion_mnist("nowhere"), CPU, CACHE)
    found, packaged = training_arrays(full), load_arrays(ASSETS / "fashion_mnist_reference.npz")
    for name in ("mean", "scatter", "class_mean", "class_scatter"):
        assert np.allclose(found[name], packaged[name], rtol=1e-3, atol=1e-3 * np.abs(packaged[name]).max())


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
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(
        "diffusion.evaluation.features.classifier.train_classifier", None
    )  # a second training would fail
    second = ClassifierFeatures(toy(), CPU, cache=str(tmp_path), epochs=1)
    assert second.fingerprint == first.fingerprint


def test_the_cache_key_holds_all_that_matters(tmp_path, monkeypatch):
    keys = {data.fingerprint() for data in (toy(), toy(size=10), toy(shift=1), toy(n=50))}
    assert len(keys) == 4 and toy().fingerprint() != toy().fingerprint("test")

    def key(data=None, **changes):
        features = PCAFeatures(toy() if data is None else data, CPU, str(tmp_path), components=4)
        for name, value in changes.items():
            setattr(features, name, value)
        return Reference(features).key

    assert key() == key()
    assert len({key(), key(toy(shift=1)), key(fingerprint="other weights"), key(preprocessing="resized")}) == 4


def test_a_scorer_whose_folder_cannot_be_written_is_used_all_the_same(tmp_path, caplog):
    (tmp_path / "cache").write_text("a file where the folder should be")
    features = ClassifierFeatures(toy(), CPU, str(tmp_path / "cache"), epochs=1)
    assert features(toy().test.images)[0].shape == (20, 192) and "could not be kept" in caplog.text


def test_renamed_classes_get_a_scorer_of_their_own(tmp_path):
    ClassifierFeatures(toy(), CPU, str(tmp_path), epochs=1)
    renamed = toy()
    renamed.class_names = ["black", "white"]
    assert ClassifierFeatures(renamed, CPU, str(tmp_path), epochs=1).record["class_names"] == ["black", "white"]


def test_what_was_computed_is_kept_and_a_damaged_file_is_made_anew(tmp_path, monkeypatch):
    calls = []

    def make():
        calls.append(1)
        return {"x": np.arange(3)}

    path = tmp_path / "deep" / "x.npz"
    for _ in range(2):
        assert remembered(path, "numbers", make)["x"].tolist() == [0, 1, 2]
    assert len(calls) == 1
    path.write_bytes(path.read_bytes()[:40])
    assert remembered(path, "numbers", make)["x"].tolist() == [0, 1, 2] and len(calls) == 2

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    path.unlink()
    monkeypatch.setattr(cache_module, "save_arrays", full_disk)
    assert remembered(path, "numbers", make)["x"].tolist() == [0, 1, 2]  # it can go on without


# ---------------------------------------------------------------------------------------------- the reference


@pytest.mark.parametrize("n", [40, 41, 47])
def test_streaming_in_any_batches_gives_the_same(n):
    random = np.random.default_rng(0)
    values, labels = random.normal(size=(n, 3)), np.arange(n) % 4
    whole = FeatureSet.of(values, values, labels, 4)
    parts = FeatureSet(n, 3, 4)
    for first in range(0, n, 7):
        part = slice(first, first + 7)
        parts.add(values[part], values[part], labels[part])
    assert [block.n for block in parts.blocks] == [n // 8] * 8
    for a, b in zip(
        [whole.moments, *whole.blocks, *whole.classes], [parts.moments, *parts.blocks, *parts.classes], strict=True
    ):
        assert a.n == b.n and np.allclose(a.mean, b.mean) and np.allclose(a.scatter, b.scatter)
    assert np.array_equal(whole.features, parts.features) and np.array_equal(whole.labels, parts.labels)
    assert np.allclose(parts.blocks[2].mean, values[2 * (n // 8) : 3 * (n // 8)].mean(axis=0))
    assert parts.moments.n == n and np.allclose(parts.classes[1].mean, values[labels == 1].mean(axis=0))


def test_what_is_kept_does_not_grow_with_n():
    many = FeatureSet(KEPT + 500, 2, 0)
    for _ in range(21):
        many.add(np.ones((500, 2)), None, None)
    assert len(many.features) == KEPT and many.moments.n == KEPT + 500 and many.classes is None


def test_real_images_come_in_an_order_with_all_classes_even(features):
    reference = Reference(features)
    for n in (10, 100, 500, 1000, 5000):
        real = reference.real(n)
        assert real.n == min(n, 1000)
        assert np.bincount(real.labels, minlength=10).tolist() == [real.n // 10] * 10
    assert (real.logits.argmax(axis=1) == real.labels).mean() > 0.88  # they still belong to their labels
    uneven = torch.tensor([0] * 90 + [1] * 10)
    assert uneven[even_order(uneven, 100)][:30].sum() == 3  # every class in its proportion
    assert even_order(None, 3).tolist() == [0, 1, 2]


# ------------------------------------------------------------------------------------------- other extractors


def test_pca_equals_scikit_learn(tmp_path):
    from sklearn.decomposition import PCA

    data = toy(n=200)
    features = PCAFeatures(data, CPU, str(tmp_path), components=5)
    pixels = data.train.images.flatten(1).double().numpy() / 255
    oracle = PCA(5, svd_solver="full").fit(pixels)
    found = features(data.test.images)[0].numpy()
    expected = oracle.transform(data.test.images.flatten(1).double().numpy() / 255)
    assert np.allclose(np.abs(found), np.abs(expected), atol=1e-9)  # the sign of a component means nothing
    again = PCAFeatures(data, CPU, str(tmp_path), components=5)  # from the cache
    assert np.array_equal(again(data.test.images)[0].numpy(), found)
    with pytest.raises(ValueError, match="components=0"):
        PCAFeatures(data, CPU, str(tmp_path), components=0)


def test_pca_of_large_images_finds_the_same_directions(tmp_path):
    data = toy(n=30, size=70)  # 4,900 pixels, more than the covariance is made for
    features = PCAFeatures(data, CPU, str(tmp_path), components=3)
    pixels = data.train.images.flatten(1).double().numpy() / 255
    vectors = np.linalg.svd(pixels - pixels.mean(axis=0), full_matrices=False)[2][:3]
    assert np.allclose(np.abs(features.components @ vectors.T), np.eye(3), atol=1e-6)
    assert len(PCAFeatures(toy(n=30), CPU, str(tmp_path)).components) == 29  # no more than there are


def test_data_without_labels_are_scored_by_pca(tmp_path, caplog):
    data = toy()
    unlabelled = ImageData("toy", Images(data.train.images), Images(data.test.images), [])
    with caplog.at_level("INFO", "diffusion"):
        assert isinstance(automatic(unlabelled, CPU, str(tmp_path)), PCAFeatures)
    assert "has no labels: it is scored by features=pca; Inception Score and accuracy" in caplog.text
    with pytest.raises(UserError, match="use features=pca"):
        ClassifierFeatures(unlabelled, CPU, str(tmp_path))
    with pytest.raises(UserError, match=r"features.weights=x: data=toy has no labels"):
        automatic(unlabelled, CPU, str(tmp_path), weights="x")
    assert isinstance(automatic(fashion_mnist_mini(), CPU, CACHE), ClassifierFeatures)


def test_inception_without_weights_and_network_is_one_sentence(monkeypatch, tmp_path):
    from torch_fidelity import feature_extractor_inceptionv3 as library

    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(library, "load_state_dict_from_url", offline)
    with pytest.raises(UserError, match=r"could not be downloaded \(no network\).*features.weights=FILE"):
        InceptionFeatures(toy(), CPU, str(tmp_path))
    with pytest.raises(UserError, match="features.weights=nowhere does not exist"):
        InceptionFeatures(toy(), CPU, str(tmp_path), weights="nowhere")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="are not those of the FID InceptionV3"):
        InceptionFeatures(toy(), CPU, str(tmp_path), weights=str(tmp_path / "other.pth"))


def test_inception_from_a_file_of_weights(monkeypatch, tmp_path):
    """With random weights of the right shapes: the network, its resize and both outputs are the library's."""
    from torch_fidelity import feature_extractor_inceptionv3 as library

    monkeypatch.setattr(library, "load_state_dict_from_url", lambda *_, **__: {})
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", lambda self, state: None)
    torch.manual_seed(0)
    network = library.FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"])
    monkeypatch.undo()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    features = InceptionFeatures(toy(), CPU, str(tmp_path), weights=str(tmp_path / "weights.pth"))
    images = toy().train.images[:3]
    values, logits = features(images)
    expected = network(images.repeat(1, 3, 1, 1))
    assert values.shape == (3, 2048) and logits.shape == (3, 1008) and not features.recognises_classes
    assert torch.allclose(values, expected[0], atol=1e-5) and torch.allclose(logits, expected[1], atol=1e-5)


def test_a_file_that_is_weights_to_one_reader_and_code_to_another_is_harmless(tmp_path):
    """The library unpickles the file it is given; it must only ever see tensors that were read safely."""
    from safetensors.torch import save

    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    torch.save({"a": Bomb()}, tmp_path / "bomb.pth")
    (tmp_path / "both.safetensors").write_bytes(save({"a": torch.zeros(1)}) + (tmp_path / "bomb.pth").read_bytes())
    for name in ("bomb.pth", "both.safetensors"):
        with pytest.raises(UserError, match=r"features.weights="):
            InceptionFeatures(toy(), CPU, str(tmp_path), weights=str(tmp_path / name))
    assert not (tmp_path / "exploded").exists()


class Halves(torch.nn.Module):
    """A user's network: mean of the left and of the right half, and logits of two classes."""

    def __init__(self, classes=0):
        super().__init__()
        self.head = torch.nn.Linear(2, classes) if classes else None

    def forward(self, x):
        features = torch.stack([half.mean(dim=(1, 2, 3)) for half in x.chunk(2, dim=3)], dim=1)
        return features if self.head is None else (features, self.head(features))


def test_a_network_of_the_user(tmp_path):
    name = f"{__name__}.Halves"
    features = ModuleFeatures(toy(), CPU, {"_target_": name}, str(tmp_path))
    x = toy().train.images[:4]
    expected = torch.stack([encode(half).mean(dim=(1, 2, 3)) for half in x.chunk(2, dim=3)], dim=1)
    assert torch.allclose(features(x)[0], expected) and features(x)[1] is None
    with_classes = ModuleFeatures(toy(), CPU, {"_target_": name, "classes": 2}, str(tmp_path))
    assert with_classes.recognises_classes and with_classes(x)[1].shape == (4, 2)
    again = ModuleFeatures(toy(), CPU, {"_target_": name, "classes": 2}, str(tmp_path))
    assert again.fingerprint == with_classes.fingerprint != features.fingerprint  # its weights are not drawn anew
    state = {key: value + 1 for key, value in with_classes.network.state_dict().items()}
    torch.save(state, tmp_path / "weights.pt")
    weights = str(tmp_path / "weights.pt")
    other = ModuleFeatures(toy(), CPU, {"_target_": name, "classes": 2}, str(tmp_path), weights)
    assert other.fingerprint != with_classes.fingerprint


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({}, "features.network._target_ must be given"),
        ({"_target_": "nowhere.Net"}, "_target_=nowhere.Net cannot be imported"),
        ({"_target_": "torch.nn.Nothing"}, "cannot be imported"),
        ({"_target_": "builtins.dict"}, "is no torch.nn.Module"),
        ({"_target_": f"{__name__}.Halves", "wrong": 1}, "unexpected keyword"),
        ({"_target_": f"{__name__}.Halves", "classes": 3}, "3 logits, but data=toy has 2 classes"),
    ],
)
def test_a_wrong_network_of_the_user_is_refused(tmp_path, network, message):
    with pytest.raises(UserError, match=message):
        ModuleFeatures(toy(), CPU, network, str(tmp_path))


def test_extracting_does_not_depend_on_where_an_image_stands(features, mini):
    order = torch.randperm(700, generator=torch.Generator().manual_seed(0))
    found = extract_set(features, mini.test, order)
    straight = features(mini.test.images[:700])[0].numpy()
    assert np.allclose(found.features, straight[order.numpy()], atol=1e-4)
    assert frechet_distance(found.moments, Moments.of(straight)) < 1e-6

"""Extractors of features: the classifier for these data, PCA, Inception, and networks of the user."""

import math

import numpy as np
import pytest
import torch
from conftest import CACHE, toy

from diffusion.data.datasets import fashion_mnist_mini
from diffusion.data.images import ImageData, Images, encode
from diffusion.evaluation.features import automatic as automatic_module
from diffusion.evaluation.features.automatic import automatic
from diffusion.evaluation.features.classifier import ClassifierFeatures, weakness
from diffusion.evaluation.features.inception import InceptionFeatures
from diffusion.evaluation.features.module import ModuleFeatures
from diffusion.evaluation.features.pca import PCAFeatures
from diffusion.system.errors import UserError

CPU = torch.device("cpu")


def test_other_data_gets_a_scorer_of_its_own_once(tmp_path, monkeypatch):
    first = ClassifierFeatures(toy(), CPU, cache=str(tmp_path), epochs=1)
    assert len(list(tmp_path.iterdir())) == 1
    module = "diffusion.evaluation.features.classifier"
    monkeypatch.setattr(f"{module}.train_classifier", None)  # a second training would fail
    second = ClassifierFeatures(toy(), CPU, cache=str(tmp_path), epochs=1)
    assert second.fingerprint == first.fingerprint


def test_a_scorer_whose_folder_cannot_be_written_is_used_all_the_same(tmp_path, caplog):
    (tmp_path / "cache").write_text("a file where the folder should be")
    features = ClassifierFeatures(toy(), CPU, str(tmp_path / "cache"), epochs=1)
    assert features(toy().test.images)[0].shape == (20, 192) and "could not be kept" in caplog.text


def test_renamed_classes_get_a_scorer_of_their_own(tmp_path):
    ClassifierFeatures(toy(), CPU, str(tmp_path), epochs=1)
    renamed = toy()
    renamed.class_names = ["black", "white"]
    assert ClassifierFeatures(renamed, CPU, str(tmp_path), epochs=1).record["class_names"] == ["black", "white"]


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


def test_pca_of_very_large_images_is_that_of_fewer(tmp_path, monkeypatch):
    """Of 30 images of 4,900 pixels there is room for 10, every third; all alike, they have no direction at all."""
    monkeypatch.setattr("diffusion.evaluation.features.pca.MOST_PIXELS", 10 * 4900)
    data = toy(n=30, size=70)
    features = PCAFeatures(data, CPU, str(tmp_path), components=3)
    some = data.train.images[::3].flatten(1).double().numpy() / 255
    vectors = np.linalg.svd(some - some.mean(axis=0), full_matrices=False)[2][:3]
    assert np.allclose(np.abs(features.components @ vectors.T), np.eye(3), atol=1e-6)
    alike = Images(data.train.images[:1].repeat(5, 1, 1, 1))
    features = PCAFeatures(ImageData("alike", alike, alike, []), CPU, str(tmp_path), components=3)
    assert np.allclose(features(alike.images)[0], 0, atol=1e-6)


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


@pytest.mark.parametrize(
    ("right", "n", "counts", "learned"),
    [
        (5, 10, [10] * 10, True),  # P(5 or more of 10 | p = 0.1) = 0.0016
        (4, 10, [10] * 10, False),  # 0.013
        (12, 12, [30, 30], True),  # 2^-12
        (9, 12, [30, 30], False),  # 299 / 4096
        (95, 100, [950, 50], False),  # who always names the larger class is right as often
        (100, 100, [950, 50], True),  # 0.95^100 = 0.0059
        (150, 1000, [10] * 10, True),  # 0.15 of many is more than chance
    ],
)
def test_a_classifier_must_be_clearly_better_than_chance_and_than_the_largest_class(right, n, counts, learned):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    share = max(counts) / sum(counts)
    tail = sum(math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(right, n + 1))
    assert (tail <= 0.01) == learned  # the binomial test, written out
    images = Images(torch.zeros(len(labels), 1, 4, 4, dtype=torch.uint8), labels)
    data = ImageData("some", images, images, [str(k) for k in range(len(counts))])
    said = weakness({"held_out_images": n, "held_out_accuracy": right / n}, data)
    assert said is None if learned else f"recognises {right} of {n} held-out images" in said
    assert weakness({}, data) is None  # a record that does not say


def test_where_the_classifier_learned_nothing_pca_ranks(tmp_path, caplog, generator):
    images = Images(
        torch.randint(0, 256, (60, 1, 8, 8), generator=generator, dtype=torch.uint8),
        torch.randint(0, 2, (60,), generator=generator),
    )
    data = ImageData("coin", images, images.subset(torch.arange(20)), ["heads", "tails"])
    found = automatic(data, CPU, str(tmp_path), epochs=1)
    assert isinstance(found, PCAFeatures) and not found.recognises_classes
    assert "held-out images, which is not clearly more than the" in found.doubt
    assert "images are ranked by features=pca, without Inception Score and accuracy." in caplog.text
    path = next(tmp_path.glob("scorer_*.safetensors"))  # one that the user gives is used, and doubted
    given = automatic(data, CPU, str(tmp_path), weights=str(path))
    assert isinstance(given, ClassifierFeatures) and given.doubt and not given.recognises_classes
    assert given(images.images[:3])[1] is None


def test_where_noise_is_as_near_as_real_images_pca_ranks(tmp_path, monkeypatch):
    monkeypatch.setattr("diffusion.evaluation.features.classifier.weakness", lambda record, data: None)
    found = {"n": 20, "real": {"fid": 1.0}, "noise": {"fid": 1.5}}
    monkeypatch.setattr(automatic_module, "scale", lambda reference: found)
    doubted = automatic(toy(), CPU, str(tmp_path), epochs=1)
    assert isinstance(doubted, PCAFeatures)
    assert doubted.doubt.startswith(
        "By the classifier of data=toy, uniform noise has the FID 1.500, only 1.5 times that"
    )
    found["noise"]["fid"] = 50.0
    trusted = automatic(toy(), CPU, str(tmp_path), epochs=1)
    assert isinstance(trusted, ClassifierFeatures) and trusted.doubt is None


def test_the_packaged_classifier_is_trusted(mini):
    found = automatic(mini, CPU, CACHE)
    assert isinstance(found, ClassifierFeatures) and found.doubt is None and found.recognises_classes


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

"""Statistics of real images: the packaged ones, streamed ones, and those that are kept."""

import numpy as np
import pytest
import torch
from conftest import CACHE, toy

from diffusion.data.datasets import fashion_mnist
from diffusion.data.images import ASSETS
from diffusion.evaluation.features.classifier import ClassifierFeatures
from diffusion.evaluation.features.pca import PCAFeatures
from diffusion.evaluation.metrics import Moments, frechet_distance
from diffusion.evaluation.reference import KEPT, FeatureSet, Reference, even_order, extract_set, training_arrays
from diffusion.system.array_files import read_arrays

CPU = torch.device("cpu")


def test_the_packaged_scorer_and_statistics_belong_together(features):
    packaged, reference = read_arrays(ASSETS / "fashion_mnist_reference.npz"), Reference(features)
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


@pytest.mark.slow
@pytest.mark.full_data
def test_the_packaged_statistics_are_those_of_the_training_images():
    full = ClassifierFeatures(fashion_mnist("nowhere"), CPU, CACHE)
    found, packaged = training_arrays(full), read_arrays(ASSETS / "fashion_mnist_reference.npz")
    for name in ("mean", "scatter", "class_mean", "class_scatter"):
        assert np.allclose(found[name], packaged[name], rtol=1e-3, atol=1e-3 * np.abs(packaged[name]).max())


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


def test_extracting_does_not_depend_on_where_an_image_stands(features, mini):
    order = torch.randperm(700, generator=torch.Generator().manual_seed(0))
    found = extract_set(features, mini.test, order)
    straight = features(mini.test.images[:700])[0].numpy()
    assert np.allclose(found.features, straight[order.numpy()], atol=1e-4)
    assert frechet_distance(found.moments, Moments.of(straight)) < 1e-6

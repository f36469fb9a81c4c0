"""Training on varied images: exact after a kill, the same in micro-batches, and not at all the same as without."""

import pytest
import torch
from conftest import same
from plain import data, make, train

from diffusion.data.augmentation import Augmentation

KEYS = ("step", "network", "ema", "optimizer", "sums")


@pytest.fixture
def varied(monkeypatch):
    monkeypatch.setattr(data(), "augmentation", Augmentation(flip=True, shift=2))


def test_resuming_is_exact(tmp_path, varied):
    settings = {"steps": 6, "accumulate": 2}
    whole = train(tmp_path / "whole", **settings)
    cut = train(tmp_path / "cut", stop_at=5, **settings)
    assert cut["step"] == 4
    resumed = train(tmp_path / "cut", resume=cut, **settings)
    assert all(same(whole[key], resumed[key]) for key in KEYS)


def test_the_network_sees_varied_images_and_the_noise_is_that_of_a_run_without(tmp_path, varied):
    """What the loss gets: the images of step 3 as the augmentation makes them, and t and noise as ever."""

    def third(folder):
        trainer, got = make(folder, steps=4, batch_size=8, accumulate=2), []
        trainer.progress.step, loss = 3, trainer.parts.loss

        def seen(denoiser, x, t, noise, *rest):
            got.append((x, t, noise))
            return loss(denoiser, x, t, noise, *rest)

        trainer.parts.loss = seen
        trainer.train_step((images, labels))
        trainer.tracker.close()
        return [torch.cat(each) for each in zip(*got, strict=True)]

    images, labels = data().train.select(torch.arange(8))
    x, t, noise = third(tmp_path / "varied")
    expected = data().augmentation(images, 0, 3, 8)
    assert torch.equal(x, expected.float() / 127.5 - 1)
    data().augmentation = Augmentation()
    plain_x, plain_t, plain_noise = third(tmp_path / "plain")
    assert torch.equal(plain_x, images.float() / 127.5 - 1)
    assert torch.equal(t, plain_t) and torch.equal(noise, plain_noise)

"""Drawing in batches that fit the memory, and each process its share: the images stay the same."""

import pytest
import torch
from conftest import GaussianDenoiser

from diffusion.denoiser import Estimate, Estimator
from diffusion.sampler import DDIM, UniPC
from diffusion.sampler.base import draw_images
from diffusion.schedule import Cosine
from diffusion.system import ranks


class Scarce(Estimator):
    """A denoiser whose memory runs out in the first or the second evaluation of more than so many images."""

    num_classes = 3

    def __init__(self, room, error, evaluation):
        super().__init__()
        self.evaluation = evaluation
        self.schedule, self.room, self.error, self.sizes, self.evaluated = Cosine(), room, error, [], 0

    def estimate(self, x_t, t, labels=None):
        self.sizes.append(len(x_t))
        if len(x_t) > self.room and self.sizes.count(len(x_t)) == self.evaluation:
            raise self.error
        self.evaluated += len(x_t)
        return Estimate(torch.tanh(x_t) * labels.view(-1, 1, 1, 1))


class Seen(list):
    """An observer that keeps what it sees, and can begin anew."""

    def __call__(self, x_t, x_0):
        self.append(x_t)

    def restart(self):
        self.clear()


OUT = (torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory"))


@pytest.mark.parametrize(("evaluation", "tried"), [(1, [11, 5, 2]), (2, [11, 11, 5, 5, 2])])
@pytest.mark.parametrize("message", OUT, ids=["cuda", "cpu"])
def test_a_batch_that_does_not_fit_is_halved_and_the_images_stay(message, evaluation, tried):
    def draw(room, batch_size):
        estimator = Scarce(room, message, evaluation)
        labels = torch.arange(11) % 3
        film = Seen()
        images = draw_images(
            *(DDIM(3), estimator, (1, 2, 2), labels, 11, 0, batch_size, torch.device("cpu")), observe=film
        )
        assert estimator.evaluated == 33 and len(film) == 3 and len({len(x_t) for x_t in film}) == 1
        return images, estimator.sizes

    expected, _ = draw(100, 11)
    images, sizes = draw(3, 11)
    assert torch.equal(images, expected)
    assert sizes[: len(tried)] == tried and max(sizes[len(tried) :]) <= 3
    with pytest.raises(RuntimeError):
        draw(0, 4)


@pytest.mark.parametrize("sampler", [DDIM(6, eta=1.0), DDIM(6, eta=0.5), UniPC(6)])
def test_each_share_draws_its_images_with_the_very_noise_of_one_process(sampler, monkeypatch):
    """An exact denoiser works pixel by pixel, so the images are the same to the last bit, too."""
    denoiser = GaussianDenoiser(Cosine(), 0.1, 0.5)
    whole = draw_images(sampler, denoiser, (1, 4, 4), None, 11, 5, 3, torch.device("cpu"))
    for size in (2, 3, 8):
        monkeypatch.setenv("WORLD_SIZE", str(size))
        parts = []
        for rank in range(size):
            monkeypatch.setenv("RANK", str(rank))
            share = ranks.share(11)
            parts.append(draw_images(sampler, denoiser, (1, 4, 4), None, 11, 5, 3, torch.device("cpu"), share=share))
        assert torch.equal(torch.cat(parts), whole)

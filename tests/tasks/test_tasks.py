"""Tasks at sampling time, with denoisers whose answers are known."""

import math
import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import CorrelatedDenoiser, FiniteDenoiser, GaussianDenoiser
from hostile import told
from PIL import Image
from torch import nn

from diffusion.data.images import ImageData, Images, encode
from diffusion.denoiser import Estimate, Wrapped
from diffusion.drawing.image_model import ImageModel
from diffusion.sampler import DDIM, DPMSolver
from diffusion.sampler.base import Noise
from diffusion.schedule import Cosine, Flow
from diffusion.system.device import Device
from diffusion.system.errors import UserError
from diffusion.tasks import ImageToImage, Inpaint, Interpolate, Invert, Job
from diffusion.tasks.inpaint import Inpainting, read_mask
from diffusion.tasks.interpolate import between_noises
from diffusion.tasks.invert import invert

NAMES = ["dark", "light"]


class ByClass(Wrapped):
    """Exact denoisers, one for each label."""

    def __init__(self, *denoisers):
        super().__init__(denoisers[0])
        self.denoisers = denoisers

    def estimate(self, x_t, t, labels=None):
        found = torch.stack([denoiser(x_t, t) for denoiser in self.denoisers])
        labels = torch.zeros(len(x_t), dtype=torch.long) if labels is None else labels
        return Estimate(found[labels, torch.arange(len(x_t))])


def job_of(denoiser, data=None, n=4, classes=None, sampler=None, conditional=True, size=8, padding=0):
    guidance = SimpleNamespace(conditional=conditional, scale=1.0, guide=lambda denoiser: denoiser)
    image = {"size": size, "channels": 1, "padding": padding, "class_names": NAMES}
    model = ImageModel(denoiser, guidance, Device("cpu"), image)
    return Job(model, sampler or DDIM(20), lambda: data, n, classes, seed=3, batch_size=5)


def points(generator, n=2, size=8):
    return torch.randint(0, 256, (n, 1, size, size), generator=generator, dtype=torch.uint8)


# ------------------------------------------------------------------------------------------- inpainting


@pytest.mark.parametrize("padding", [0, 2])
def test_the_missing_half_of_a_known_image_is_found(generator, padding):
    """Data of four images: half of one leaves no doubt about the rest."""
    images = points(generator, 4)
    data = ImageData("points", Images(images), Images(images), [])
    whole = nn.functional.pad(images, [padding] * 4)
    job = job_of(ByClass(FiniteDenoiser(Cosine(), encode(whole))), data, conditional=False, padding=padding)
    made = Inpaint("bottom", variations=2, repeats=1).run(job)
    assert torch.equal(made.images, images.repeat(2, 1, 1, 1))


def test_what_is_left_open_is_drawn_from_the_conditional_distribution(generator):
    """Two of the images have the same upper half: both lower halves come up, each about as often; others never."""
    images = points(generator, 3)
    images[1, :, :4] = images[0, :, :4]
    data = ImageData("points", Images(images), Images(images[:1].repeat(200, 1, 1, 1)), [])
    job = job_of(ByClass(FiniteDenoiser(Cosine(), encode(images))), data, n=200, conditional=False)
    drawn = Inpaint("bottom", variations=1, repeats=2).run(job).images
    which = (drawn[:, None].float() - images[None].float()).abs().flatten(2).amax(dim=2).argmin(dim=1)
    first = float((which == 0).float().mean())
    assert (which == 2).sum() == 0
    assert abs(first - 0.5) < 4 * math.sqrt(0.25 / 200)


def test_known_pixels_stay_bit_for_bit(generator):
    images = points(generator, 4)
    data = ImageData("points", Images(images), Images(images), [])
    job = job_of(ByClass(GaussianDenoiser(Cosine(), 0.3, 0.4)), data, conditional=False)
    drawn = Inpaint("centre", variations=1).run(job).images
    unknown = read_mask("centre", 8).bool().expand_as(images)
    assert torch.equal(drawn[~unknown], images[~unknown])
    assert (drawn[unknown] != images[unknown]).float().mean() > 0.9


@pytest.mark.parametrize("repeats", [0, 1, 5])
@pytest.mark.parametrize("sampler", [DDIM(50, clip=False), DPMSolver(50, clip=False)], ids=["ddim", "dpm_solver"])
@pytest.mark.parametrize("schedule", [Cosine(), Flow()], ids=["cosine", "flow"])
def test_unknown_pixels_keep_their_spread(sampler, schedule, repeats, generator):
    """Known pixels that say nothing about the others: these have the mean and the spread of the data, however often
    they go back and forth. (Ancestral steps lose a little spread where they are few: 0.05 of 0.5 with 50.)"""
    denoiser = GaussianDenoiser(schedule, 0.2, 0.5)
    known, unknown = torch.full((400, 1, 8, 8), 0.7), read_mask("bottom", 8)
    fresh = lambda: torch.randn(known.shape, generator=generator)  # noqa: E731
    x = sampler.sample(Inpainting(denoiser, known, unknown, fresh, repeats), fresh)
    assert torch.equal(x[..., :4, :], known[..., :4, :])
    assert float(x[..., 4:, :].mean()) == pytest.approx(0.2, abs=0.02)
    assert float(x[..., 4:, :].std()) == pytest.approx(0.5, abs=0.06)


def test_going_back_and_forth_leads_to_the_conditional_distribution(generator):
    """Pixels with correlation 0.9: given one, x, the other is N(0.9 x, (1 − 0.9²)/4). Without repeats it comes out too
    near to its own mean; with each repeat it comes nearer."""
    rho, n = 0.9, 4000
    covariance = 0.25 * torch.tensor([[1, rho], [rho, 1]], dtype=torch.float64)
    denoiser = CorrelatedDenoiser(Cosine(), covariance)
    known = torch.full((n, 1, 2, 1), 0.6, dtype=torch.float64)
    unknown = torch.tensor([0.0, 1.0]).view(1, 1, 2, 1)
    fresh = lambda: torch.randn(known.shape, generator=generator, dtype=torch.float64)  # noqa: E731
    means, stds = [], []
    for repeats in (0, 2, 10):
        x = DDIM(50, clip=False).sample(Inpainting(denoiser, known, unknown, fresh, repeats), fresh)
        means.append(float(x[:, 0, 1].mean()))
        stds.append(float(x[:, 0, 1].std()))
    wanted = rho * 0.6, 0.5 * math.sqrt(1 - rho**2)
    assert abs(means[2] - wanted[0]) < abs(means[1] - wanted[0]) < abs(means[0] - wanted[0])
    assert means[2] == pytest.approx(wanted[0], abs=0.03) and stds[2] == pytest.approx(wanted[1], abs=0.03)


def test_repeats_evaluate_the_network_as_often_again(generator):
    x, seen = torch.randn(2, 1, 8, 8, generator=generator), []
    inpainting = Inpainting(
        GaussianDenoiser(Cosine(), 0.0, 1.0), x, read_mask("top", 8), lambda: torch.zeros_like(x), repeats=3
    )
    DDIM(5).sample(inpainting, lambda: x, observe=lambda x_t, x_0: seen.append(1))
    assert len(seen) == 4 * 4 + 1  # the last step counts at once


def test_a_mask_from_a_file(tmp_path):
    pixels = np.zeros((8, 8), dtype=np.uint8)
    pixels[2:4, 5:] = 255
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    assert torch.equal(read_mask(str(tmp_path / "mask.png"), 8)[0, 0], torch.from_numpy(pixels / 255).float())
    with pytest.raises(UserError, match=r"task.mask=.*mask.png has 8×8 pixels; it must have 28×28"):
        read_mask(str(tmp_path / "mask.png"), 28)
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="task.mask=.*broken.png cannot be read"):
        read_mask(str(tmp_path / "broken.png"), 8)
    with pytest.raises(UserError, match="task.mask=middle is no image file; give one, or choose from top, bottom"):
        read_mask("middle", 8)


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="counts memory as Linux does")
def test_no_other_program_is_started_for_a_mask(postscript):
    assert "task.mask" in told(read_mask, str(postscript), 8)


# ------------------------------------------------------------------------------------------ image to image


def test_little_noise_leaves_an_image_and_full_noise_makes_a_new_one(generator):
    images = points(generator, 4)
    data = ImageData("points", Images(images), Images(images), [])
    job = job_of(ByClass(FiniteDenoiser(Flow(), encode(images))), data, conditional=False)
    drawn = ImageToImage([0.1, 1.0]).run(job).images
    assert torch.equal(drawn[:4], images)
    assert torch.equal(drawn[4:], job.draw(4, None))  # α(1) = 0: nothing of the image is left


def test_images_become_those_of_another_class(generator):
    """From where nothing is left of the image, its label is all there is."""
    images = points(generator, 4)
    data = ImageData("points", Images(images), Images(images, torch.tensor([0, 1, 0, 1])), NAMES)
    denoiser = ByClass(GaussianDenoiser(Flow(), -0.5, 0.05), GaussianDenoiser(Flow(), 0.5, 0.05))
    made = ImageToImage([1.0]).run(job_of(denoiser, data))
    assert made.labels.tolist() == [0, 0, 1, 1]  # test images in the order of their classes
    assert (encode(made.images).flatten(1).mean(dim=1).sign() == made.labels * 2 - 1).all()
    made = ImageToImage([1.0]).run(job_of(denoiser, data, classes=[1]))
    assert made.labels.tolist() == [1] * 4 and encode(made.images).mean() > 0.45


# ------------------------------------------------------------------------------------------- interpolation


def test_between_seeds_the_ends_are_what_the_seeds_draw(generator):
    denoiser = ByClass(GaussianDenoiser(Cosine(), -0.2, 0.3), GaussianDenoiser(Cosine(), 0.2, 0.3))
    job = job_of(denoiser, n=4)
    made = Interpolate(seeds=[5, 9], columns=3).run(job)
    labels = torch.tensor([0, 1, 0, 1])
    rows = made.images.view(4, 3, 1, 8, 8)
    assert torch.equal(rows[:, 0], replace(job, seed=5).draw(4, labels))
    assert torch.equal(rows[:, 2], replace(job, seed=9).draw(4, labels))
    assert made.labels.tolist() == labels.repeat_interleave(3).tolist()


def test_noise_on_the_way_is_standard_normal():
    weights = torch.linspace(0, 1, 9)
    rows = [0] * 9
    noises = [Noise(seed, rows, (1, 64, 64), torch.device("cpu")) for seed in (0, 1)]
    drawn = between_noises(*noises, weights)()
    assert torch.allclose(drawn.flatten(1).std(dim=1), torch.ones(9), atol=0.05)
    # the correlation with the first is cos φ
    found = torch.stack([torch.corrcoef(torch.stack([drawn[0].flatten(), x.flatten()]))[0, 1] for x in drawn])
    assert torch.allclose(found, torch.cos(0.5 * math.pi * weights), atol=0.06)


def test_between_two_gaussian_classes_lie_gaussians_with_means_between():
    """Of equal spread, N(a, s²)^(1 − w) N(b, s²)^w is N(a + w (b − a), s²)."""
    denoiser = ByClass(*(GaussianDenoiser(Cosine(), mean, 0.1) for mean in (-0.6, 0.6)))
    job = job_of(denoiser, n=20, classes=[0, 1], sampler=DDIM(200, clip=False))
    rows = encode(Interpolate("classes", columns=5).run(job).images).view(20, 5, -1)
    assert torch.allclose(rows.mean(dim=(0, 2)), torch.linspace(-0.6, 0.6, 5), atol=0.02)
    assert torch.allclose(rows.std(dim=2).mean(dim=0), torch.full((5,), 0.1), atol=0.005)


def test_classes_must_be_two():
    denoiser = ByClass(GaussianDenoiser(Cosine(), 0, 1))
    for classes in (None, [0], [0, 1, 1]):
        with pytest.raises(UserError, match=r"task.between=classes needs two classes: add classes=\[A,B\]"):
            Interpolate("classes").run(job_of(denoiser, classes=classes))
    with pytest.raises(UserError, match="task.between=classes needs labels, and this model has guidance=none"):
        Interpolate("classes").run(job_of(denoiser, conditional=False))


# ----------------------------------------------------------------------------------------------- inversion


def test_the_noise_of_a_gaussian_is_found_with_first_order(generator):
    """The path of the ODE keeps (x_t − α m)/√(α² s² + σ²): at pure noise, (x_0 − m)/s."""
    mean, std = 0.1, 0.5
    denoiser = ByClass(GaussianDenoiser(Flow(), mean, std))
    x_0 = mean + std * torch.randn(8, 1, 8, 8, generator=generator, dtype=torch.float64)
    errors = []
    for steps in (50, 100, 200):
        noise = invert(denoiser, x_0, None, DDIM(steps).times(Flow()))
        errors.append(float((noise - (x_0 - mean) / std).square().mean().sqrt()))
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.15)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.15)


def test_the_round_trip_comes_nearer_with_steps(generator):
    images = torch.randint(60, 190, (4, 1, 8, 8), generator=generator, dtype=torch.uint8)
    data = ImageData("grey", Images(images), Images(images), [])
    job = job_of(ByClass(GaussianDenoiser(Cosine(), 0.0, 0.5)), data, conditional=False)
    made = Invert([5, 10, 20, 200]).run(job)
    errors = made.numbers["error"]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.1 * errors[0]
    assert f"{errors[-1]:.2f} with 200 steps" in made.says
    assert made.images.shape == images.shape


def test_inputs_that_do_not_fit_are_refused(mini, tmp_path):
    job = job_of(ByClass(GaussianDenoiser(Cosine(), 0, 1)), mini, n=1001, size=28)
    with pytest.raises(UserError, match="n=1001: there are only 1000 images in fashion_mnist_mini"):
        job.inputs(None)
    with pytest.raises(UserError, match="task.images=nowhere: no such file or folder"):
        job.inputs("nowhere")
    np.savez(tmp_path / "small.npz", arr_0=np.zeros((2, 8, 8, 1), np.uint8))
    with pytest.raises(UserError, match="task.images=.*8×8 pixels with 1 channels, but .* have 28×28"):
        job.inputs(str(tmp_path / "small.npz"))

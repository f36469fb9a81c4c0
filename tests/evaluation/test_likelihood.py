"""Bits per dimension: against closed forms and against an independent sum."""

import io
import math

import plain
import pytest
import torch
from conftest import GaussianDenoiser
from PIL import Image

from diffusion import variational
from diffusion.data.images import ImageData, ImageFiles, Images, encode
from diffusion.denoiser import Denoiser, Estimate, Estimator
from diffusion.evaluation import likelihood, plots
from diffusion.evaluation.codes import histogram_bits, png_bits
from diffusion.evaluation.likelihood import likelihood_bound, process_times, stratify
from diffusion.objective import V
from diffusion.schedule import EDM, Cosine, Flow, Linear
from diffusion.system.errors import UserError

STD = 0.3


class Constant(Estimator):
    """Always answers with the same grey, whatever it sees; share is the learned variance's."""

    def __init__(self, schedule, grey, share=None):
        super().__init__()
        self.schedule, self.grey, self.share = schedule, grey, share

    def estimate(self, x_t, t, labels=None):
        share = None if self.share is None else torch.full_like(x_t, self.share)
        return Estimate(torch.full_like(x_t, self.grey), share=share)


class Convolution(torch.nn.Module):
    num_classes = 10

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.classes = torch.nn.Conv2d(1, 1, 3, padding=1), torch.nn.Embedding(11, 1)

    def forward(self, x, t, labels):
        return self.inner(x) + self.classes(labels).view(-1, 1, 1, 1) + (t / 1000).view(-1, 1, 1, 1)


@pytest.fixture
def gaussian(generator):
    """(uint8 images of Gaussian pixels, their true −log₂ p per dimension)."""
    grey = torch.randn(250, 1, 4, 4, generator=generator, dtype=torch.float64) * STD
    images = ((grey.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    x = encode(images).double()
    normal = torch.distributions.Normal(0.0, STD)
    upper = torch.where(images == 255, torch.ones(()).double(), normal.cdf(x + 1 / 255))
    lower = torch.where(images == 0, torch.zeros(()).double(), normal.cdf(x - 1 / 255))
    return images, -(upper - lower).log2().flatten(1).mean(dim=1)


def error(values):
    return float(values.std()) / math.sqrt(len(values))


# --------------------------------------------------------------------------------------------- the bound

SCHEDULES = [Cosine(), Linear(), Cosine(zero_terminal_snr=True), Flow(), EDM()]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=["cosine", "linear", "zero_terminal", "flow", "edm"])
def test_the_bound_lies_above_the_truth_and_near_it(schedule, gaussian):
    images, true = gaussian
    found = likelihood_bound(GaussianDenoiser(schedule, 0.0, STD), images, None, steps=1000, evaluations=60)
    excess = found.bits - true
    coarse = isinstance(schedule, EDM)  # β is too broad for steps of noise far above the data, of which EDM has many
    assert -3 * error(excess) < float(excess.mean()) < (0.15 if coarse else 0.05)
    parts = found.prior + found.steps + found.decoder
    assert torch.allclose(found.bits, parts) and (found.prior >= 0).all() and found.bits.dtype == torch.float64


@pytest.mark.parametrize("evaluations", [2, 3, 15])
def test_an_estimate_agrees_with_an_independent_sum_over_all_steps(evaluations, gaussian, generator):
    images, steps, schedule = gaussian[0], 40, Cosine()
    x_0, exact = encode(images).double(), GaussianDenoiser(schedule, 0.0, STD)
    whole = variational.prior_bits(schedule, x_0)
    for k in range(steps, 0, -1):
        t, s = (torch.full((len(images),), i / steps, dtype=torch.float64) for i in (k, k - 1))
        alpha, sigma = (float(v[0]) for v in schedule(t))
        x_t = alpha * x_0 + sigma * torch.randn(x_0.shape, generator=generator, dtype=torch.float64)
        whole = whole + variational.step_bits(schedule, x_0, x_t, t, s, exact(x_t, t).clamp(-1, 1), 1.0)
    found = likelihood_bound(exact, images, None, steps=steps, evaluations=evaluations)
    difference = found.bits - whole
    assert abs(float(difference.mean())) < 4 * error(difference)
    assert found.evaluations == evaluations and len(found.times) == len(found.per_step) == evaluations


def test_as_many_evaluations_as_steps_are_the_whole_sum(gaussian):
    exact = GaussianDenoiser(Cosine(), 0.0, STD)
    whole, same, more = (likelihood_bound(exact, gaussian[0], None, steps=30, evaluations=e) for e in (None, 30, 10**6))
    assert torch.equal(whole.bits, same.bits) and torch.equal(whole.bits, more.bits)
    assert whole.evaluations == 30 and torch.allclose(whole.times, torch.arange(1, 31).double() / 30)
    total = whole.prior.mean() + whole.per_step.sum()
    assert torch.isclose(total, whole.bits.mean())


@pytest.mark.parametrize("steps", [2, 3, 10, 1000])
def test_strata_hold_every_step_once(steps):
    for count in {1, 2, 7, steps // 2, steps - 1}:
        if 1 <= count < steps:
            strata = stratify(steps, count)
            assert len(strata) == count and torch.equal(torch.cat(strata), torch.arange(1, steps))
            assert all(len(part) for part in strata)


@pytest.mark.parametrize("schedule", SCHEDULES[:3])
def test_the_process_is_that_of_ddpm(schedule):
    assert torch.equal(process_times(schedule, 1000), torch.arange(1001, dtype=torch.float64) / 1000)


@pytest.mark.parametrize(("schedule", "first"), [(Flow(), 0.005), (EDM(), (0.005 / 80) ** (1 / 7))])
def test_noise_far_below_a_grey_level_is_left_out(schedule, first):
    times = process_times(schedule, 1000)
    assert times[0] == 0 and times[-1] == 1 and first <= float(times[1]) < first + 0.001
    assert torch.allclose(times[2:] - times[1:-1], torch.full((), 0.001, dtype=torch.float64))


def test_an_image_depends_on_the_seed_and_its_number_alone(mini):
    denoiser = Denoiser(Convolution(), Cosine(), V())
    images, labels = mini.test.select(torch.arange(12))

    def bits(n=12, **settings):
        return likelihood_bound(denoiser, images[:n], labels[:n], evaluations=8, **settings).bits

    whole = bits()
    assert torch.allclose(bits(batch_size=5), whole, rtol=1e-5) and torch.allclose(bits(7), whole[:7], rtol=1e-5)
    assert not torch.allclose(bits(seed=1), whole, rtol=1e-3)
    unlabelled = likelihood_bound(denoiser, images, None, evaluations=8).bits
    assert not torch.allclose(unlabelled, whole, rtol=1e-3)


def test_a_learned_variance_takes_the_place_of_the_fixed_one(mini):
    images = mini.test.images[:5]

    def bits(denoiser, **settings):
        return likelihood_bound(denoiser, images, None, evaluations=8, **settings).bits

    learned = bits(Constant(Cosine(), 0.1, share=0.25))
    assert torch.allclose(learned, bits(Constant(Cosine(), 0.1), share=0.25))
    assert not torch.allclose(learned, bits(Constant(Cosine(), 0.1)), rtol=1e-3)


@pytest.mark.parametrize(("padding", "more"), [(2, 32**2 - 28**2), ([1, 0, 3, 2], 29 * 25 - 28 * 20)])
def test_a_border_that_is_known_costs_nothing_and_the_images_own_dimensions_count(mini, padding, more):
    """With x̂_0 black, which is right for the border, no term depends on the noise, and with β̃ none is above 0 but the
    decoder's, −log₂ Φ(1/255 / √β̃), for which the open-ended bin of black is wide."""
    width = 28 if padding == 2 else 20
    images, black, schedule = mini.test.images[:5, ..., :width], Constant(Cosine(50), -1.0), Cosine(50)
    settings = {"evaluations": None, "share": 0.0}
    plain, padded = (likelihood_bound(black, images, None, padding=p, **settings) for p in (0, padding))
    t = torch.tensor([0.02], dtype=torch.float64)
    std = variational.step_variances(schedule, t, 0 * t)[1].sqrt()
    border = -torch.special.log_ndtr(1 / 255 / std) / math.log(2) * more / (28 * width)
    assert torch.allclose(plain.steps, padded.steps, rtol=1e-9)
    assert torch.allclose(plain.decoder + border, padded.decoder, rtol=1e-9)


# ---------------------------------------------------------------------------------------- without a network


def test_a_margin_moves_black_and_white_and_not_the_bins_of_the_grey_levels():
    """Of black images whose x̂_0 is right, steps cost what they cost without a margin, since only the variances differ
    there; the prior's mean is 1.2 times as far away, and the last step hardly misses."""
    black = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    plain_one, further = Constant(Cosine(), -1.0), Constant(Cosine(), -1.2)
    further.margin = 0.2
    before, now = (likelihood_bound(each, black, None, evaluations=20) for each in (plain_one, further))
    assert torch.allclose(now.steps, before.steps, rtol=1e-6)
    assert torch.allclose(now.prior, 1.44 * before.prior, rtol=1e-6)
    assert (now.decoder < 1e-3).all() and (before.decoder > 0.01).all()


def test_the_histogram_is_a_cross_entropy():
    """Four training pixels, two of them black, one grey and one white; one is added to each of 256 counts."""
    train = Images(torch.tensor([[[[0, 0], [7, 255]]]], dtype=torch.uint8))
    images = torch.tensor([[[[0, 0]]], [[[255, 3]]]], dtype=torch.uint8)
    expected = [-math.log2(3 / 260), -(math.log2(2 / 260) + math.log2(1 / 260)) / 2]
    assert histogram_bits(train, images).tolist() == pytest.approx(expected)
    colour = Images(torch.cat([train.images, 255 - train.images, train.images], dim=1))  # a histogram for each channel
    inverted = torch.cat([images, 255 - images, images], dim=1)
    assert histogram_bits(colour, inverted).tolist() == pytest.approx(expected)


def test_simple_codes_need_what_is_known_of_fashion_mnist(mini):
    """4.92 and 4.61 bits were measured on the 10,000 test images with the 60,000 training images. Of the 1,000 test
    images here the mean may be off by three standard errors (about 0.1); that the histogram has 6,000 training images
    hardly matters, for they still have 4.7 million pixels."""
    for bits, known in ((histogram_bits(mini.train, mini.test.images), 4.92), (png_bits(mini.test.images), 4.61)):
        assert bits.shape == (1000,) and abs(float(bits.mean()) - known) < 3 * error(bits) < 0.12


def test_images_in_files_have_the_same_histogram(tmp_path, mini):
    for i in range(20):
        Image.fromarray(mini.train.images[i, 0].numpy()).save(tmp_path / f"{i:02}.png")
    files = ImageFiles(sorted(tmp_path.iterdir()), None, 28, 1)
    few = Images(mini.train.images[:20])
    assert torch.equal(histogram_bits(files, mini.test.images[:5]), histogram_bits(few, mini.test.images[:5]))


def test_png_is_counted_without_its_headers(generator):
    """A file of few pixels has one chunk of data: 57 bytes are signature, header, end, and its length and checksum."""
    noise = torch.randint(0, 256, (2, 3, 16, 16), generator=generator, dtype=torch.uint8)
    bits = png_bits(noise)
    assert bits.min() > 8  # noise cannot be compressed
    file = io.BytesIO()
    Image.fromarray(noise[0].permute(1, 2, 0).numpy()).save(file, "PNG", optimize=True)
    assert float(bits[0]) * noise[0].numel() / 8 == len(file.getvalue()) - 57
    assert float(png_bits(torch.zeros(1, 1, 28, 28, dtype=torch.uint8))) < 0.3


# ----------------------------------------------------------------------------------------------- a model


@pytest.mark.parametrize("conditional", [True, False])
def test_what_is_reported_of_a_model(mini, conditional):
    """One that takes labels, and one without them that sees padding and learns the variance."""
    padding = 0 if conditional else 2
    size = {"image_size": 28 + 2 * padding, "num_classes": 10 if conditional else 0}
    denoiser = plain.denoiser(learns_variance=not conditional, **size)
    settings = {"steps": 50, "evaluations": 4, "seed": 0, "batch_size": 7, "device": torch.device("cpu")}
    found = likelihood.measure(denoiser, mini, 10, conditional=conditional, padding=padding, **settings)
    images, labels = mini.test.select(likelihood.even_order(mini.test.labels, 1000)[:10])
    assert sorted(labels.tolist()) == list(range(10))
    bound = likelihood_bound(denoiser, images, labels if conditional else None, padding=padding, **settings)
    assert found["bits_per_dim"] == pytest.approx(float(bound.bits.mean()))
    assert found["standard_error"] == pytest.approx(error(bound.bits))
    assert sum(found["parts"].values()) == pytest.approx(found["bits_per_dim"])
    assert found["n"] == 10 and len(found["curve"]["t"]) == len(found["curve"]["bits"]) == 4
    protocol = found["protocol"]
    assert protocol["labels"].startswith("given" if conditional else "not given")
    assert protocol["variance"].startswith("β" if conditional else "learned") and protocol["steps"] == "50"
    assert ("padding" in protocol["dimensions"]) != conditional
    drawn = plots.bits_per_step(found).axes[0].get_lines()
    assert [len(line.get_xdata()) for line in drawn] == [1, 3]


# ------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((-1, None, 100), "likelihood=-1 must be a number of test images: 0"),
        ((1001, None, 100), "likelihood=1001 must be .* 0 .none. to 1000, all of data=fashion_mnist_mini"),
        ((5, 1, 100), "likelihood_steps=1 must be at least 2"),
        ((5, None, 1), "likelihood_evaluations=1 must be at least 2"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message, mini):
    with pytest.raises(UserError, match=message):
        likelihood.check_settings(*settings, mini)


def test_a_single_image_has_no_standard_error(mini):
    one = ImageData("one", mini.train, mini.test.subset(torch.arange(1)), mini.class_names)
    settings = {"steps": 5, "evaluations": 3, "seed": 0, "batch_size": 7, "device": torch.device("cpu")}
    found = likelihood.measure(plain.denoiser(), one, 1, conditional=True, padding=0, **settings)
    assert found["standard_error"] is None

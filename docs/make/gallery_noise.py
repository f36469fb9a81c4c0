"""Pictures of the noise: schedules, what the network predicts, and which noise levels count and are trained."""

import torch
from gallery_parts import (
    COLOURS,
    Material,
    charts,
    coloured,
    contrasted,
    image_grid,
    layered,
    legend_below,
    options,
    picture,
)
from matplotlib.figure import Figure
from torch import Tensor, nn

from diffusion.data.images import encode
from diffusion.denoiser import Denoiser, per_image
from diffusion.loss import Weighted
from diffusion.loss.consistency import Consistency
from diffusion.objective import Objective, unit
from diffusion.sampler.base import Noise
from diffusion.schedule import Schedule, levels_at
from diffusion.system.randomness import TRAINING, stream
from diffusion.timesteps import LossAware, Stratified, Timesteps
from diffusion.variational import step_variances

RATIOS = torch.logspace(-2, 2, 201, dtype=torch.float64)  # σ/α, of curves over the noise level
BOOT = 9
NOISE_LEVEL = "noise level σ/α"


def noise_of(images: Tensor) -> Tensor:
    """Standard normal, the shape of the images."""
    return Noise(0, range(len(images)), images.shape[1:], images.device)()


def levels(schedule: Schedule) -> tuple[Tensor, Tensor]:
    """α and σ where σ/α is `RATIOS`."""
    return schedule(schedule.time_at(-2 * RATIOS.log()))


class Silent(nn.Module):
    """A network that is never asked."""

    num_classes = 0


# ------------------------------------------------------------------------------------- schedule


@picture("schedule", "How fast the image goes and the noise comes", "python train.py schedule=flow", whole=True)
def schedule_curves(made: Material) -> Figure:
    """α is how much of the image is left at time t, σ how much noise there is; log SNR is both in one number, from
    clean (top) to noise (bottom). Look where the lines of the right panel cross 0, image and noise being equally
    strong: `linear` is there early and spends most of its time on heavy noise, the others are there about the middle.
    `edm` keeps the image and lets the noise grow to 80, far beyond the panel. The dashed line,
    `schedule.zero_terminal_snr=true`, ends in pure noise, where the plain one keeps a trace of the image."""
    figure, (left, middle, right) = charts(3)
    times = [k / 500 for k in range(1, 501)]
    kinds: list = [(name, colour, "-", {}) for name, colour in coloured(options("schedule"))]
    kinds += [(f"{n}, zero_terminal_snr", c, "--", {"zero_terminal_snr": True}) for n, c, *_ in kinds if n == "linear"]
    for name, colour, line, settings in kinds:
        schedule = made.part("schedule", name.partition(",")[0], **settings)
        found = levels_at(schedule, times)
        left.plot(times, [level.alpha for level in found], line, color=colour, label=name)
        middle.plot(times, [level.sigma for level in found], line, color=colour)
        right.plot(times, [2 * level.half_log_snr for level in found], line, color=colour)
    left.set(title="α: image left", xlabel="t", ylim=(-0.03, 1.05))
    middle.set(title="σ: noise added", xlabel="t", ylim=(-0.03, 1.55))
    right.set(title="log SNR = log α²/σ²", xlabel="t", ylim=(-16, 16))
    legend_below(figure, left)
    return figure


@picture("schedule", "One image on its way into noise", "python train.py schedule=sigmoid", whole=True)
def schedule_noise(made: Material) -> Figure:
    """The same boot and the same noise under every schedule, from t = 0 (left) to 1 (right), each image with its own
    contrast. Look for the column where you no longer recognise it: what lies to the right of it has to be
    made up in sampling, what lies to the left is detail."""
    times = torch.linspace(0, 1, 11, dtype=torch.float64)
    x_0 = encode(made.garments([BOOT])).expand(len(times), -1, -1, -1)
    noise, rows = noise_of(x_0[:1]), []
    for name in options("schedule"):
        alpha, sigma = (per_image(value, x_0) for value in made.part("schedule", name)(times))
        rows.append(contrasted((alpha * x_0 + sigma * noise) * unit(alpha, sigma)))
    return image_grid(options("schedule"), [([f"t = {t:.1f}" for t in times.tolist()], torch.cat(rows))])


# ------------------------------------------------------------------------------------- objective


@picture("objective", "What the network is asked to predict", "python train.py objective=epsilon", whole=True)
def objective_targets(made: Material) -> Figure:
    """Top: what the network sees, on the cosine schedule. Below: the right answer for each objective (each image with
    its own contrast). `x0`, `epsilon` and `flow` (noise minus image) ask for the same at every t. `v` and `edm`
    ask for the noise where there is little of it (left) and for the image where there is much (right): for what is
    not plain to see. They differ in sign: `v` ends with the image's negative, `edm` begins with the noise's."""
    times = torch.tensor([0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95], dtype=torch.float64)
    x_0 = encode(made.garments([BOOT])).expand(len(times), -1, -1, -1)
    noise = noise_of(x_0[:1]).expand_as(x_0)
    alpha, sigma = (per_image(value, x_0) for value in made.part("schedule", "cosine")(times))
    rows = [(alpha * x_0 + sigma * noise) * unit(alpha, sigma)]
    rows += [made.part("objective", name).target(x_0, noise, alpha, sigma) for name in options("objective")]
    images = torch.cat([contrasted(row) for row in rows])
    return image_grid(["x_t", *options("objective")], [([f"t = {t:.2f}" for t in times.tolist()], images)])


@picture("objective", "From the prediction to the image", "python train.py objective=x0", whole=True)
def objective_coefficients(made: Material) -> Figure:
    """x̂_0 = c_skip · x_t + c_out · F: how much is taken from the noisy image, and how much from the network's answer F.
    On the right you see how large an error of the network becomes in the image: `epsilon` multiplies it where there
    is much noise, `x0` passes it on whole even where the image is all but clean. `v`, `flow` and `edm` take the better
    of both: they go with `epsilon` at little noise and with `x0` at much."""
    figure, (left, right) = charts(2)
    alpha, sigma = levels(made.part("schedule", "cosine"))
    for name, look in layered(options("objective")):
        c_skip, c_out, _ = made.part("objective", name).coefficients(alpha, sigma)
        left.semilogx(RATIOS, c_skip, label=name, **look)
        right.loglog(RATIOS, c_out.abs(), **look)
    left.set(title="c_skip", xlabel=NOISE_LEVEL, ylim=(-0.05, 2.05))
    right.set(title="size of c_out", xlabel=NOISE_LEVEL)
    legend_below(figure, left)
    return figure


# ------------------------------------------------------------------------------------- loss


def loss_weights_of(loss: Weighted, objective: Objective, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """The weights of the squared error of the network's own target, and of the same error of x̂_0."""
    _, c_out, _ = objective.coefficients(alpha, sigma)
    weight = loss.weight(alpha, sigma, c_out)
    return weight, weight / c_out**2


@picture("loss", "How much each noise level counts", "python train.py loss=min_snr loss.gamma=5", whole=True)
def loss_weights(made: Material) -> Figure:
    """Left: what the squared error of the network's own answer is multiplied with, for `objective=v`. Middle: what that
    means for an error of x̂_0. Here `epsilon`, `min_snr`, `p2` and `edm` are the same whatever the network predicts;
    they differ in how much the finest details (left end) and the heaviest noise (right end) count. Right:
    `loss=target`, the same weight for every answer of the network, means something else for each objective. Where lines
    meet, thin ones lie on thick ones: `hybrid` weighs like `target`. `consistency` has no such weights, see below."""
    figure, (left, middle, right) = charts(3)
    alpha, sigma = levels(made.part("schedule", "cosine"))
    for name, look in layered(options("loss")):
        loss = made.part("loss", name)
        if not isinstance(loss, Consistency):
            own, of_image = loss_weights_of(loss, made.part("objective", "v"), alpha, sigma)
            left.loglog(RATIOS, own, label=name, **look)
            middle.loglog(RATIOS, of_image, **look)
    for name, look in layered(options("objective")):
        _, of_image = loss_weights_of(made.part("loss", "target"), made.part("objective", name), alpha, sigma)
        right.loglog(RATIOS, of_image, label=name, **look)
    left.set(title="of v, by loss", xlabel=NOISE_LEVEL)
    middle.set(title="of x̂_0, by loss", xlabel=NOISE_LEVEL)
    right.set(title="of x̂_0, loss=target, by objective", xlabel=NOISE_LEVEL)
    for axes in (left, right):
        axes.legend(fontsize=8)
    return figure


@picture(
    "loss",
    "Where the consistency loss looks for its answer",
    "python train.py experiment=consistency checkpoint=latest",
)
def loss_consistency(made: Material) -> Figure:
    """`loss=consistency` asks the model to answer at one noise level what it answers a little further down. The lines
    say how far down, at several moments of the run: at first far (where a line is missing, all the way to the
    image itself), later closer and closer to the grey line, which is no distance at all."""
    figure, axes = charts(1, height=3.2)
    denoiser = Denoiser(Silent(), made.part("schedule", "cosine"), made.part("objective", "v"))
    times = denoiser.schedule.time_at(-2 * RATIOS.log())
    loss = made.part("loss", "consistency")
    axes.loglog(RATIOS, RATIOS, color="#d5dae0", linewidth=6)
    for progress, colour in zip((0.0, 0.1, 0.25, 0.5, 1.0), COLOURS, strict=False):
        _, ratio, lower = loss.earlier(denoiser, times, progress)
        axes.loglog(ratio, lower.where(lower > 0, torch.nan), color=colour, label=f"{progress:.0%} of the run")
    axes.set(xlabel="noise level σ/α that is trained", ylabel="σ/α where its answer lies", ylim=(0.005, 150))
    axes.legend()
    return figure


@picture("loss", "What the learned variance chooses between", "python train.py loss=hybrid")
def loss_hybrid(made: Material) -> Figure:
    """`loss=hybrid` also learns how much fresh noise each step of DDPM adds, between two bounds, β̃ and β. Their ratio
    says how much there is to choose: where it is near 1, nothing. With a thousand steps that is nearly everywhere
    but in the last few (left); the fewer the steps, the more it matters."""
    figure, axes = charts(1, height=2.8)
    schedule = made.part("schedule", "cosine")
    for steps, colour in zip((25, 100, 1000), COLOURS, strict=False):
        t = torch.arange(2, steps + 1, dtype=torch.float64) / steps
        forward, posterior = step_variances(schedule, t, t - 1 / steps)
        axes.semilogx(t, posterior / forward, color=colour, label=f"{steps} steps")
    axes.set(xlabel="time t of the step, from the image (left) to noise", ylabel="β̃ / β", ylim=(0, 1.05))
    axes.legend()
    return figure


# ------------------------------------------------------------------------------------- timesteps


def times_of(made: Material, option: str) -> Timesteps:
    """A distribution of training times; one that learns has seen the losses of the trained model."""
    timesteps = made.part("timesteps", option, {"schedule": made.part("schedule", "cosine")})
    if isinstance(timesteps, LossAware):
        loss, generator = made.part("loss", "target"), stream(0, TRAINING, 0)
        for first in range(0, 3000, 100):
            images, labels = made.data.train.select(torch.arange(first, first + 100))
            t = Stratified()(torch.rand(100, generator=generator))
            noise = torch.randn(images.shape, generator=generator)
            with torch.no_grad():
                timesteps.observe(t, loss(made.model.denoiser, encode(images), t, noise, labels))
    return timesteps


@picture("timesteps", "Which times are trained", "python train.py timesteps=logit_normal timesteps.mean=0", whole=True)
def timesteps_drawn(made: Material) -> Figure:
    """How often each time is drawn, and under it the times of one batch of 32. `uniform`, `discrete` (only whole steps
    of the schedule) and `stratified` have the same density, but look at the batches: `stratified` leaves no gap.
    `logit_normal` spares both ends and, by its mean of −0.4, leans to little noise; `log_normal`, EDM's, does so more.
    `loss_aware` goes where the losses are large, here those of a trained quickstart: to both ends."""
    names = options("timesteps")
    figure, all_axes = charts(3, rows=-(-len(names) // 3), height=1.9, sharex=True, sharey=True)
    even = (torch.arange(20_000) + 0.5) / 20_000
    batch = torch.rand(32, generator=stream(0, TRAINING, 1))
    for (name, colour), axes in zip(coloured(names), all_axes.flat, strict=False):
        timesteps = times_of(made, name)
        axes.hist(timesteps(even).numpy(), bins=50, range=(5e-7, 1 + 5e-7), density=True, color=colour, alpha=0.35)
        axes.plot(timesteps(batch), [-0.3] * 32, "|", color=colour, markersize=8)
        axes.set(title=name, ylim=(-0.6, 4), xlim=(-0.01, 1.01))
    for axes in all_axes[-1]:
        axes.set_xlabel("t")
    return figure

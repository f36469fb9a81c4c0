"""Pictures that a trained model draws: every sampler, and every kind of guidance."""

import torch
from gallery_parts import COLOURS, Material, charts, image_grid, options, picture
from matplotlib.figure import Figure
from torch import Tensor

from diffusion.sampler.grid import GRIDS
from diffusion.schedule import levels_at

SHOWN = [3, 5, 8, 9]  # the classes that few columns have room for
EVERYWHERE: dict = {"scale": 2.0, "interval": [], "rescale": 0.0, "plus_plus": False}


def names_of(made: Material, labels: list[int]) -> list[str]:
    """The names of classes."""
    return [made.model.class_names[label] for label in labels]


# ------------------------------------------------------------------------------------- sampler


@picture(
    "sampler",
    "The same noise by every sampler",
    "python sample.py checkpoint=latest sampler=unipc sampler.steps=8",
    whole=True,
)
def sampler_steps(made: Material) -> Figure:
    """Four garments from the same noise, by every sampler in 4, 8 and 16 steps, guided at scale 2. The last row is
    where the path from this noise leads, by a hundred steps of Heun: see which row comes near it first. `ddim` and
    `euler` are the same step by two names. `heun` and `edm` ask the network twice a step, so that their 8 steps cost as
    much as 16 of the others; for `edm`, on its own grid, 4 are too few. `ddpm` and `consistency` add fresh noise
    on the way and arrive elsewhere; `consistency` is made for models tuned by `loss=consistency`, which this is not."""

    def drawn(option: str, steps: int) -> Tensor:
        sampler = made.part("sampler", option, steps=steps)
        return made.model.sample(len(SHOWN), labels=SHOWN, guidance=EVERYWHERE, sampler=sampler, seed=3)

    names, end = options("sampler"), drawn("heun", 100)
    blocks = [(f"{steps} steps", torch.cat([*(drawn(name, steps) for name in names), end])) for steps in (4, 8, 16)]
    return image_grid([*names, "100 × heun"], blocks, scale=2)


@picture(
    "sampler", "On the way from noise to an image", "python sample.py checkpoint=latest sampler=ddpm sampler.steps=10"
)
def sampler_way(made: Material) -> Figure:
    """Ten steps from the same noise to a boot: x_t is the noisy image that the step begins with, x̂_0 what the model
    takes the finished image to be. `ddim` takes noise away and adds none, so that its x̂_0 only grows sharper; `ddpm`
    takes away more and adds fresh noise in its place, and may change its mind."""
    steps, rows = 10, []
    for option in ("ddim", "ddpm"):
        seen: list[Tensor] = []
        model = made.model.image_model.unguided()
        sampler = made.part("sampler", option, steps=steps)

        def observe(x_t: Tensor, x_0: Tensor, seen: list[Tensor] = seen) -> None:
            seen.append(torch.cat([x_t, x_0]))

        model.draw(sampler, 1, torch.tensor([9]), 3, 1, observe=observe)
        both = model.to_images(torch.stack(seen, dim=1).flatten(0, 1))
        rows.append(both)
    captions = [f"{option}, {what}" for option in ("ddim", "ddpm") for what in ("x_t", "x̂_0")]
    return image_grid(captions, [([f"step {k + 1}" for k in range(steps)], torch.cat(rows))])


@picture("sampler", "Where the steps lie", "python sample.py checkpoint=latest sampler.grid=karras")
def sampler_grids(made: Material) -> Figure:
    """Twelve steps on the cosine schedule, from noise (right) to the image (left), by every `sampler.grid`. `uniform`
    and `quadratic` begin in pure noise and get, in one long step, to where something can be seen; `karras` and
    `log_snr` begin at σ/α = 80, and are even in powers of the noise level and in its logarithm. Look how near the
    image each begins its last step, to no noise at all, which the axis cannot show."""
    figure, axes = charts(1, height=2.2)
    schedule = made.part("schedule", "cosine")
    for (i, grid), colour in zip(enumerate(GRIDS), COLOURS, strict=False):
        times = made.part("sampler", "ddim", steps=12, grid=grid).times(schedule)
        ratios = [level.ratio for level in levels_at(schedule, times[:-1])]
        axes.semilogx(ratios, [i] * len(ratios), "o-", color=colour, markersize=5, linewidth=0.8)
    axes.set_yticks(range(len(GRIDS)), list(GRIDS))
    axes.set(xlabel="noise level σ/α", ylim=(len(GRIDS) - 0.5, -0.5))
    return figure


# ------------------------------------------------------------------------------------- guidance


@picture("guidance", "The same seed at every scale", "python sample.py checkpoint=latest guidance.scale=3", whole=True)
def guidance_scale(made: Material) -> Figure:
    """Every column has a noise of its own, the same in all rows, and asks for the garment above it, with the run's
    own sampler and guidance at all noise levels. Scale 0 does not listen to the label, as a model of
    `guidance=none` never does; 1 listens as it was taught; more exaggerates: shapes become clear and typical, then
    pale and flat. For data with labels `guidance=auto` is `classifier_free`."""
    scales = (0, 1, 1.5, 2, 3, 5)
    labels = list(range(len(made.model.class_names)))
    rows = [
        made.model.sample(len(labels), labels=labels, guidance={**EVERYWHERE, "scale": float(scale)}, seed=5)
        for scale in scales
    ]
    return image_grid([f"scale {scale:g}" for scale in scales], [(names_of(made, labels), torch.cat(rows))])


@picture(
    "guidance",
    "An interval, the contrast restored, and CFG++",
    "python sample.py checkpoint=latest sampler=ddim guidance.scale=4 guidance.interval=[0.3,5]",
)
def guidance_kinds(made: Material) -> Figure:
    """The same noise without guidance, with much of it, and with three remedies against too much, each in 25 steps of
    DDIM: guidance only where σ/α lies between 0.3 and 5, so that the first outlines stay free; `rescale=0.7`, most of
    the way back to the contrast without guidance; and `plus_plus=true` at scale 0.6, which carries on the noise of
    the estimate without a label. Look at the T-shirt and the pullover, which scale 4 bleaches."""
    strong = {**EVERYWHERE, "scale": 4.0}
    kinds = {
        "scale 1": {**EVERYWHERE, "scale": 1.0},
        "scale 4": strong,
        "interval": {**strong, "interval": [0.3, 5.0]},
        "rescale": {**strong, "rescale": 0.7},
        "plus_plus": {**EVERYWHERE, "scale": 0.6, "plus_plus": True},
    }
    labels = list(range(len(made.model.class_names)))
    sampler = made.part("sampler", "ddim", steps=25)
    rows = [
        made.model.sample(len(labels), labels=labels, guidance=kind, sampler=sampler, seed=5) for kind in kinds.values()
    ]
    return image_grid(list(kinds), [(names_of(made, labels), torch.cat(rows))])

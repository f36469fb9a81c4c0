# %% [markdown]
# # 3 · Images from noise: DDPM, and what made it faster
#
# Adding noise to an image until nothing is left of it is easy. A diffusion model learns the way back, one small step at
# a time; begin that way at pure noise and a new image stands at its end. This notebook trains such a model as the paper
# of 2020 did, then a second one with what was found since, looks at every stage, and puts scores beside real images.
# Each of the two trainings takes a few minutes on a CPU.

# %%
import os
from itertools import pairwise

import matplotlib.pyplot as plt
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import diffusion
from diffusion.data.datasets import fashion_mnist_mini
from diffusion.data.images import decode, encode
from diffusion.evaluation.neighbours import PixelNeighbours
from diffusion.sampler import DDIM
from diffusion.sampler.base import Noise
from diffusion.schedule import Cosine, Linear

plt.rcParams.update({"figure.dpi": 80, "axes.spines.top": False, "axes.spines.right": False})

# %% tags=["parameters"]
SMALL = "SMALL" in os.environ  # a quick try: everything runs, and the images are no images yet
images = 640 if SMALL else 25_600  # that each training sees: 6,000 images, a few times over
width = 16 if SMALL else 32  # of the network
n = 50 if SMALL else 500  # images behind every score
ancestral = 5 if SMALL else 100  # steps of DDPM
steps = [2, 4] if SMALL else [4, 8, 16, 32]  # of the samplers that are compared
runs = f"runs/width-{width}-images-{images}"  # other sizes are other runs, each in a folder of its own

# %% [markdown]
# ## The way into noise
#
# One equation holds everything together. At time $t$ between 0 and 1, an image $x_0$ has become
#
# $$x_t = \alpha(t)\, x_0 + \sigma(t)\, \varepsilon, \qquad \varepsilon \sim \mathcal{N}(0, I)$$
#
# with $\alpha$ falling from 1 to 0 and $\sigma$ rising from 0 to 1. How they do so is the **schedule**. The *linear*
# one is that of DDPM ([Ho et al. 2020](https://arxiv.org/abs/2006.11239)), named after the variances $\beta$ of its
# thousand steps; the *cosine* one came a year later ([Nichol & Dhariwal 2021](https://arxiv.org/abs/2102.09672)). Below
# is the same image with the same noise under both. See how the linear schedule has drowned it by half-time: the second
# half of its way is noise turning into noise, and teaches little.

# %%
data = fashion_mnist_mini()
x_0 = encode(data.test.images[torch.where(data.test.labels == 5)[0][:1]])  # (1, 1, 28, 28), in [−1, 1]
noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0))
times = torch.linspace(0, 1, 11)
rows = []
for schedule in (Linear(), Cosine()):
    alpha, sigma = (level.view(-1, 1, 1, 1) for level in schedule(times))
    rows.append(alpha * x_0 + sigma * noise)
diffusion.show(torch.cat(rows), captions=[f"t = {t:.1f}" for t in times], rows=["linear", "cosine"])

# %% [markdown]
# ## DDPM: a network that guesses the noise
#
# The network sees $x_t$ and $t$ and says which noise was added. It is trained by the plainest of all losses,
#
# $$L = \mathbb{E}_{x_0, \varepsilon, t}\; \big|\, \varepsilon - \varepsilon_\theta(x_t, t) \,\big|^2,$$
#
# for a random image, a random noise and a random time in each step. `experiment=base` is the recipe of the paper:
# linear schedule, noise predicted, no labels. We leave its theory as it is, and take a smaller network, the images that
# come with the package and an optimizer that learns more from each, so that we need not wait for a day. `compose`
# makes the settings, exactly as `python train.py` would, and `train` trains.

# %%
recipe = [
    "data=fashion_mnist_mini",
    "model=unet_light",
    f"model.width={width}",
    "optimizer=muon",
    f"training.images={images}",
    "training.batch_size=64",
    "training.log_every=10",
    "preview.steps=8",  # the grid that the run draws for itself
    "score.n=0",  # we score by hand
]
config = diffusion.compose("experiment=base", "data.padding=0", *recipe)
ddpm = diffusion.train(config, f"{runs}/ddpm")

# %% [markdown]
# ## Watching the loss
#
# A run writes its curves for TensorBoard (`tensorboard --logdir runs`); here we read them ourselves. On the left is the
# loss. It falls fast and then seems to stand still, which says nothing about the images: they go on getting better for
# long. On the right is the loss of five ranges of $t$ apart. Where there is little noise ($t$ near 0) it is hard to say
# what the noise was, for it hides in the texture; where there is only noise ($t$ near 1) the network can copy its
# input. The plain loss is a mean over tasks of very different kinds.

# %%
LEVELS = ["0.0-0.2", "0.2-0.4", "0.4-0.6", "0.6-0.8", "0.8-1.0"]


def plot_curves(folder):
    """The loss of a run, and that of each range of times."""
    events = EventAccumulator(folder).Reload()
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3), sharey=True)
    for tag, axis in (("train/loss", left), *((f"noise_level/{level}", right) for level in LEVELS)):
        points = events.Scalars(tag)
        axis.plot([point.step for point in points], [point.value for point in points], label=tag.split("/")[1])
    left.set(xlabel="step", title="loss", yscale="log")
    right.set(xlabel="step", title="loss where t lies in …")
    right.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    plt.show()


plot_curves(f"{runs}/ddpm")


# %% [markdown]
# ## The way back
#
# From the guess of the noise follows a guess of the image, $\hat{x}_0 = (x_t - \sigma_t \hat\varepsilon)/\alpha_t$;
# `model.denoise` gives it. A step from $t$ to an earlier time $s$ takes that guess and puts noise back, a little less
# than there was:
#
# $$x_s = \alpha_s\, \hat{x}_0 + \sqrt{\sigma_s^2 - \eta^2 \tilde\beta}\; \hat\varepsilon + \eta \sqrt{\tilde\beta}\; z,
# \qquad \tilde\beta = \frac{\sigma_s^2}{\sigma_t^2}\Big(\sigma_t^2 - \frac{\alpha_t^2}{\alpha_s^2}\sigma_s^2\Big)$$
#
# With $\eta = 1$ as much of the noise as possible is fresh, $z$: that is **DDPM**. With $\eta = 0$ all of it is the old
# one, $\hat\varepsilon$, and the image depends on the first noise alone: that is **DDIM**
# ([Song et al. 2021](https://arxiv.org/abs/2010.02502)). Given the same random numbers, the loop below and the
# package's own sampler must come to the same images.


# %%
def draw(model, noise, steps, eta=0.0):
    """Images from noise(), which is called again for fresh noise; with every x_t and x̂_0 on the way."""
    path, x = [], model.noise_level(1.0)[1] * noise()
    for t, s in pairwise(torch.linspace(1, 0, steps + 1)):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = model.noise_level(t), model.noise_level(s)
        x_0 = model.denoise(x, t).clamp(-1, 1)
        path.append((x, x_0))
        eps = (x - alpha_t * x_0) / sigma_t
        fresh = eta * sigma_s / sigma_t * (sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2).clamp(min=0).sqrt()
        x = alpha_s * x_0 + (sigma_s**2 - fresh**2).clamp(min=0).sqrt() * eps + fresh * noise()
    return decode(x), path


def noise_of(indices):
    """The random numbers of some images: image i has a stream of its own."""
    return Noise(seed=0, indices=indices, shape=(1, 28, 28), device=torch.device("cpu"))


ours, _ = draw(ddpm, noise_of(range(12)), ancestral, eta=1.0)
package = ddpm.sample(12, sampler=DDIM(ancestral, eta=1.0), seed=0)
apart = (ours.int() - package.int()).abs().float().mean()
print(f"Ours and the package's images are {apart:.2f} grey levels of 255 apart in the mean.")
diffusion.show(torch.cat([ours, package]), rows=["by hand", "package"])

# %% [markdown]
# These are early days: a few minutes of training are not much for a recipe that was made for days.
#
# ## The same number of images, with what came later
#
# Three ideas came after DDPM, and they are what the quickstart of this package does. None makes a step dearer.
#
# - **Predict v instead of the noise** ([Salimans & Ho 2022](https://arxiv.org/abs/2202.00512)):
#   $v = \alpha\,\varepsilon - \sigma\, x_0$. At little noise that is nearly the noise, at much noise nearly the image,
#   so the network is always asked for what it cannot simply copy. An error of $\hat\varepsilon$ is multiplied by
#   $\sigma/\alpha$ in $\hat{x}_0$, which explodes as $t \to 1$; one of v is multiplied by $\sigma \le 1$.
# - **The cosine schedule**, which we saw above.
# - **More of the middle noise levels** ([Esser et al. 2024](https://arxiv.org/abs/2403.03206)), where it is decided
#   what is drawn; and a learning rate that falls to zero, with an average of the weights.
#
# We train on as many images as before, and draw both models from the same noise.

# %%
config = diffusion.compose("guidance=none", *recipe)
model = diffusion.train(config, f"{runs}/v")
drawn = [each.sample(12, sampler=DDIM(25)) for each in (ddpm, model)]
diffusion.show(torch.cat(drawn), rows=["noise, linear", "v, cosine"])

# %% [markdown]
# Do not judge by one picture. The first model is drawn with its last weights, at a learning rate that never falls and
# without an average: some steps earlier or later it may look quite different. Nor do the two losses compare, for they
# measure different things, an error of the noise and an error of v. That is why there are scores
# ([2_scorer](2_scorer.ipynb) builds them): try `scores(ddpm.sample(n, sampler=DDIM(25)))` further down. What one can
# see is that the loss of v is more even over the noise levels:

# %%
plot_curves(f"{runs}/v")

# %% [markdown]
# ## What happens on the way
#
# Each pair of rows is one image on its way: what the sampler holds, $x_t$, and what the network believes, $\hat{x}_0$.
# Look at the beliefs. At first they are a blurred mean of all that could come, as the best guess under the squared
# error is the mean. Then it is decided which garment it will be, then its outline, and in the end the texture. Noise
# sets the order: what is large shows through much noise, what is fine does not.

# %%
_, path = draw(model, noise_of([3, 10]), 50)
moments = [0, 10, 18, 24, 29, 34, 38, 42, 46, 49]
strip = [path[k][kind][i] for i in range(2) for kind in (0, 1) for k in moments]
diffusion.show(strip, captions=[f"t = {1 - k / 50:.2f}" for k in moments], rows=["x_t", "its x̂_0"] * 2)

# %% [markdown]
# ## Fewer steps: DDIM against DDPM
#
# DDPM adds fresh noise in every step and needs many steps to take it away again. DDIM follows a smooth path from the
# first noise to the image, and a smooth path can be walked in long strides. All rows below start from the same noise.
# In the rows of DDIM a column is mostly one garment, with more detail the more steps there are; the rows of DDPM are
# different garments each time.

# %%
kinds = {"DDIM": 0.0, "DDPM": 1.0}
drawn = [model.sample(8, sampler=DDIM(k, eta=eta)) for eta in kinds.values() for k in steps]
diffusion.show(torch.cat(drawn), rows=[f"{name}, {k} steps" for name in kinds for k in steps])

# %% [markdown]
# The same as numbers: FID of n images against the number of steps, which is the number of times the network is asked.
# The dashed line is what real test images score at the same n. Read the floor first: no model should be below it.


# %%
def scores(images):
    """All scores of unlabelled images, beside those of real ones."""
    return diffusion.evaluate(images, data="fashion_mnist_mini")


figure, axis = plt.subplots(figsize=(6, 3))
for name, eta in kinds.items():
    found = [scores(model.sample(n, sampler=DDIM(k, eta=eta))) for k in steps]
    axis.plot(steps, [each["fid"] for each in found], "o-", label=name)
real = found[0]["real"]["fid"]
axis.axhline(real, color="gray", linestyle="--", label=f"real test images, {real:.2f}")
axis.set(xlabel="steps", ylabel=f"FID, n = {n}", yscale="log", xscale="log")
axis.set_xticks(steps, steps)
axis.minorticks_off()
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# With few steps DDIM is ahead. With many, DDPM catches up, for its fresh noise also mends errors that were made before.
# Both stay far above the floor: after so short a training it is the network that errs, not the sampler. Better samplers
# for few steps look back at the estimates of earlier ones. UniPC, the quickstart's own, does, and models of this recipe
# are drawn with it when you say nothing: compare its FID below, in 12 steps, with the curves.
#
# ## The scores, beside real images

# %%
diffusion.evaluate(model, n=n)

# %% [markdown]
# And the question that scores cannot answer: did it learn garments, or did it learn *these* garments by heart? Below
# are generated images over the training image that is nearest to each, pixel by pixel. They should resemble each other
# and be different. (A model of this size that sees each image four times has no room to learn them by heart; one that
# trains for long on few images does.)

# %%
images = model.sample(12, seed=1)
distances, nearest = PixelNeighbours(data.train, torch.device("cpu")).nearest(images)
diffusion.show(torch.cat([images, data.train.images[nearest[:, 0]]]), rows=["drawn", "nearest"])

# %% [markdown]
# ## To take along
#
# 1. One equation, $x_t = \alpha x_0 + \sigma \varepsilon$; one network that guesses; one loop that walks back.
# 2. What the network predicts decides how its errors are multiplied, and which noise levels it has to work at.
# 3. DDPM and DDIM are one formula; without fresh noise the path is smooth and few steps suffice.
#
# To try: `images = 60_000`; `schedule=flow objective=flow`, which makes the path nearly straight, in a folder of its
# own; `sampler=DDIM(8, grid="karras")`. [4_conditional](4_conditional.ipynb) tells the model what to draw.

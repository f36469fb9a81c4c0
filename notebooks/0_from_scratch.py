# %% [markdown]
# # 0 · From scratch: diffusion in 150 lines
#
# A diffusion model draws pictures by *removing noise*. It is taught one thing only: given a noisy picture, guess the
# clean one. Then it starts from nothing but noise, guesses, takes a small step towards its guess, and guesses again.
#
# This notebook builds all of it in PyTorch, with nothing hidden, and trains it in a few minutes on a laptop's CPU:
#
# | | | |
# |---|---|---|
# | 1 | data | small pictures of garments |
# | 2 | noise | how a picture is lost, step by step |
# | 3 | network | a U-Net that sees a noisy picture |
# | 4 | training | guess, compare, correct |
# | 5 | sampling | from noise to a picture |
# | 6 | guidance | pictures that look more like what was asked for |
# | 7 | average | a steadier network for free |
#
# The pictures come with the package *Simple Diffusion*; the code below uses none of its own. The package does the
# same things, faster and with more choices, and its tests hold the formulas here to the package's.

# %%
import copy
import importlib.util
import math
import os
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

# %% [markdown]
# All sizes stand here. A larger `WIDTH` and more `STEPS` give better pictures and take longer.

# %% tags=["parameters"]
SMALL = "SMALL" in os.environ  # set it to see quickly whether everything runs
STEPS = 6 if SMALL else 300  # of training
MORE_STEPS = 4 if SMALL else 100  # at the end, over which the weights are averaged
BATCH = 16 if SMALL else 64  # pictures per step
WIDTH = 16 if SMALL else 48  # channels of the network, at the highest resolution
DRAW_STEPS = 4 if SMALL else 20  # from noise to a picture
_ = torch.manual_seed(0)  # the same pictures each time

# %% [markdown]
# ## 1 Data
#
# 6,000 pictures of 28×28 grey pixels, of ten kinds of garment (Fashion-MNIST). A network likes numbers of about size
# one, with both signs, so black becomes −1 and white +1. A picture is then a tensor of the shape (1, 28, 28), its
# kind a number from 0 to 9.

# %%
assets = Path(importlib.util.find_spec("diffusion").origin).parent / "assets"


def load(split):
    with np.load(assets / "fashion_mnist_mini.npz") as file:
        pixels, kinds = (torch.from_numpy(file[f"{split}_{what}"]) for what in ("images", "labels"))
    return pixels[:, None] / 127.5 - 1, kinds.long()


images, labels = load("train")  # (6000, 1, 28, 28), (6000,)


def show(rows, scale=2):  # (rows, columns, 1, 28, 28) → one picture, each pixel enlarged
    framed = F.pad(rows[:, :, 0], (1, 1, 1, 1), value=1.0).permute(0, 2, 1, 3)  # (rows, 30, columns, 30)
    grey = ((framed.clamp(-1, 1) + 1) * 127.5).round().byte().flatten(2).flatten(0, 1)
    height, width = grey.shape
    return Image.fromarray(grey.numpy()).resize((width * scale, height * scale), Image.Resampling.NEAREST)


show(torch.stack([images[labels == kind][:4] for kind in range(10)], dim=1))

# %% [markdown]
# ## 2 Noise
#
# Time $t$ runs from 0, the clean picture $x_0$, to 1, pure noise. In between, the two are mixed:
#
# $$x_t = \alpha(t)\, x_0 + \sigma(t)\, \varepsilon, \qquad \varepsilon \sim \mathcal N(0, 1), \qquad
# \alpha^2 + \sigma^2 = 1$$
#
# $\alpha$ says how much of the picture is left and $\sigma$ how much noise there is. Their squares add up to one, so
# that $x_t$ always has about the same size. The *cosine schedule* (Nichol & Dhariwal 2021) turns $\alpha$ along a
# quarter of a circle: it loses the picture slowly at both ends, and spends its time where something can be learned.


# %%
def schedule(t):  # time in [0, 1] → α and σ, of the same shape
    alpha = torch.cos((t + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)
    alpha = alpha.clamp(min=4.93e-5, max=1)  # a trace of the picture is left even at t = 1
    return alpha, torch.sqrt(1 - alpha**2)


def add_noise(x_0, t, noise):  # pictures (B, 1, 28, 28) at times t (B,)
    alpha, sigma = schedule(t[:, None, None, None])
    return alpha * x_0 + sigma * noise


t = torch.linspace(0, 1, 11)
noise = torch.randn(1, 1, 28, 28).expand(11, -1, -1, -1)
show(torch.stack([add_noise(images[i].expand(11, -1, -1, -1), t, noise) for i in (0, 3)]))

# %% [markdown]
# The last picture of each row is noise alone. To draw is to walk a row from right to left.
#
# ### What to ask for
#
# The network could guess the clean picture $x_0$, but at little noise that is too easy: $x_t$ already is the answer.
# It could guess the noise $\varepsilon$, but then pure noise is too easy. The mixture of both,
#
# $$v = \alpha\, \varepsilon - \sigma\, x_0,$$
#
# is equally hard everywhere (Salimans & Ho 2022). And since $\alpha^2 + \sigma^2 = 1$, the picture comes back from it
# by
#
# $$\hat x_0 = \alpha\, x_t - \sigma\, v.$$
#
# Below, from top to bottom: what the network sees, what it should answer, and the picture that follows from the right
# answer.


# %%
def velocity(x_0, t, noise):  # the right answer
    alpha, sigma = schedule(t[:, None, None, None])
    return alpha * noise - sigma * x_0


def clean_from(x_t, v, t):  # the x̂_0 that follows from an answer v
    alpha, sigma = schedule(t[:, None, None, None])
    return alpha * x_t - sigma * v


x_0 = images[3].expand(11, -1, -1, -1)
x_t, v = add_noise(x_0, t, noise), velocity(x_0, t, noise)
show(torch.stack([x_t, v, clean_from(x_t, v, t)]))

# %% [markdown]
# ## 3 Network
#
# The network takes a noisy picture, the time and the kind of garment, and answers with a picture, $v$. It is made of
# *residual blocks*: each adds a correction to what comes in. Time and kind enter as a vector that stretches and
# shifts the channels in the middle of every block. That is how the same weights can do rough work at much noise and
# fine work at little.


# %%
class Block(nn.Module):
    def __init__(self, in_width, out_width, vector_width):
        super().__init__()
        self.norm_1, self.norm_2 = nn.GroupNorm(8, in_width), nn.GroupNorm(8, out_width)
        self.conv_1 = nn.Conv2d(in_width, out_width, 3, padding=1)
        self.conv_2 = nn.Conv2d(out_width, out_width, 3, padding=1)
        self.skip = nn.Conv2d(in_width, out_width, 1)
        self.scale_shift = nn.Linear(vector_width, 2 * out_width)
        nn.init.zeros_(self.conv_2.weight)  # at first there is no correction: easy to train

    def forward(self, x, vector):
        h = self.conv_1(F.silu(self.norm_1(x)))
        scale, shift = self.scale_shift(vector)[:, :, None, None].chunk(2, dim=1)
        return self.skip(x) + self.conv_2(F.silu(self.norm_2(h) * (1 + scale) + shift))


# %% [markdown]
# The blocks stand in the shape of a U. On the way down the picture is halved, so that a block sees more of it at
# once; at the bottom *attention* lets every place look at every other (a left sleeve must match the right one); on
# the way up it is doubled again, and what was seen on the way down is laid beside it, so that no detail is lost.
#
# Two small tricks: every 2×2 pixels are folded into channels first, which leaves a quarter of the places to work on;
# and there is an eleventh kind, *none*, which guidance will need.


# %%
class UNet(nn.Module):
    def __init__(self, width, kinds=10):
        super().__init__()
        w, d = width, 4 * width
        self.register_buffer("frequencies", torch.exp(-torch.linspace(0, math.log(10_000), 32)))
        self.time = nn.Sequential(nn.Linear(64, d), nn.SiLU(), nn.Linear(d, d))
        self.kind = nn.Embedding(kinds + 1, d)  # the last is "none"
        self.first, self.down_1 = nn.Conv2d(4, w, 3, padding=1), Block(w, w, d)
        self.halve, self.down_2 = nn.Conv2d(w, w, 3, stride=2, padding=1), Block(w, 2 * w, d)
        self.attention = nn.MultiheadAttention(2 * w, 4, batch_first=True)
        self.bottom = Block(2 * w, 2 * w, d)
        self.up_2, self.grow = Block(4 * w, 2 * w, d), nn.Conv2d(2 * w, w, 3, padding=1)
        self.up_1, self.last = Block(2 * w, w, d), nn.Conv2d(w, 4, 3, padding=1)

    def forward(self, x, t, kind):  # (B, 1, 28, 28), times (B,), kinds (B,) → v (B, 1, 28, 28)
        angles = 1000 * t[:, None] * self.frequencies
        vector = F.silu(self.time(torch.cat([angles.sin(), angles.cos()], dim=1)) + self.kind(kind))
        high = self.down_1(self.first(F.pixel_unshuffle(x, 2)), vector)  # (B, w, 14, 14)
        low = self.down_2(self.halve(high), vector)  # (B, 2 w, 7, 7)
        places = low.flatten(2).transpose(1, 2)  # (B, 49, 2 w)
        seen = self.attention(places, places, places, need_weights=False)[0]
        h = self.bottom(low + seen.transpose(1, 2).reshape(low.shape), vector)
        h = self.grow(F.interpolate(self.up_2(torch.cat([h, low], dim=1), vector), scale_factor=2))
        h = self.up_1(torch.cat([h, high], dim=1), vector)
        return F.pixel_shuffle(self.last(F.silu(h)), 2)


network = UNet(WIDTH)
print(f"{sum(p.numel() for p in network.parameters()):,} weights")

# %% [markdown]
# ## 4 Training
#
# Take pictures, draw a time and noise for each, mix, let the network guess, and lower the squared error:
#
# $$L = \big\| F(x_t, t, \text{kind}) - v \big\|^2$$
#
# Once in ten times the kind is replaced by *none*: the same network learns to draw with and without being told what.


# %%
def loss_of(network, x_0, kind, t, noise):  # the mean squared error of a batch
    guess = network(add_noise(x_0, t, noise), t, kind)
    return (guess - velocity(x_0, t, noise)).square().mean()


optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)


def train_step():  # one step; returns the loss before it
    chosen = torch.randint(len(images), (BATCH,))
    x_0, kind = images[chosen], labels[chosen].masked_fill(torch.rand(BATCH) < 0.1, 10)
    loss = loss_of(network, x_0, kind, 1 - torch.rand(BATCH), torch.randn_like(x_0))
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    return loss.item()


losses = [train_step() for _ in range(STEPS)]
plt.figure(figsize=(6, 2.2))
plt.semilogy(losses, linewidth=0.8)
plt.gca().set(xlabel="step", ylabel="loss")
plt.show()

# %% [markdown]
# The loss falls fast and then hardly at all. That is as it should be: nobody can tell a garment from pure noise, and
# the error that *must* remain is most of what the curve shows. Whether the model draws well is seen in its pictures.
#
# ## 5 Sampling
#
# Start at $t = 1$ with noise. Guess the clean picture $\hat x_0$, and from it the noise $\hat\varepsilon$ that must
# have been added. Then mix the two again with a little less noise, at a time $s < t$ (DDIM, Song et al. 2021),
#
# $$\hat\varepsilon = \frac{x_t - \alpha_t \hat x_0}{\sigma_t}, \qquad
# x_s = \alpha_s\, \hat x_0 + \sigma_s\, \hat\varepsilon,$$
#
# and repeat until $s = 0$. Why not take the first guess and be done? It is the *mean* of all garments that could hide
# behind the noise: a blur. Each step rules some of them out, and the next guess is sharper.


# %%
def guess_clean(network, x_t, t, kind):  # x̂_0 of pictures (B, 1, 28, 28) that are all at one time t
    times = t.expand(len(x_t))
    return clean_from(x_t, network(x_t, times, kind), times)


def ddim_step(x_t, x_0, t, s):  # x_s from x_t and the guess x̂_0
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
    noise = (x_t - alpha_t * x_0) / sigma_t
    return alpha_s * x_0 + sigma_s * noise


@torch.no_grad()
def draw(network, kind, noise, guess=guess_clean):  # pictures, and every (x_t, x̂_0) on the way
    x_t, way = noise, []
    for t, s in pairwise(torch.linspace(1, 0, DRAW_STEPS + 1)):
        x_0 = guess(network, x_t, t, kind).clamp(-1, 1)
        way.append((x_t, x_0))
        x_t = ddim_step(x_t, x_0, t, s)
    return x_t, way


ten, noise = torch.arange(10), torch.randn(10, 1, 28, 28)
drawn, way = draw(network, ten, noise)
moments = [*way[::2], (drawn, drawn)]
show(torch.stack([torch.stack([x[kind] for x in row]) for kind in (1, 7) for row in zip(*moments, strict=True)]))

# %% [markdown]
# For a trouser and a sneaker: above $x_t$, below it the guess $\hat x_0$, from left to right. The first guess is the
# blur of all trousers. The outline comes first, then folds and seams.
#
# ## 6 Guidance
#
# The network has learned two answers: told the kind, and not told. Their difference is what makes a trouser a
# *trouser*. So go further in that direction (classifier-free guidance, Ho & Salimans 2022):
#
# $$\hat x_0 = \hat x_0(\text{none}) + w \cdot \big(\hat x_0(\text{kind}) - \hat x_0(\text{none})\big)$$
#
# With $w = 0$ the kind is ignored, $w = 1$ is the plain answer, and more makes the picture more typical of its kind.


# %%
def guided(scale):  # a guess with guidance of this scale w
    def guess(network, x_t, t, kind):
        none = guess_clean(network, x_t, t, torch.full_like(kind, 10))
        return none + scale * (guess_clean(network, x_t, t, kind) - none)

    return guess


show(torch.stack([draw(network, ten, noise, guided(scale))[0] for scale in (0, 1, 2, 4)]))

# %% [markdown]
# Every column begins with the same noise; from top to bottom $w$ = 0, 1, 2, 4. In the first row anything may come
# out. Further down the kinds get clearer, and in the end too clear: harsh contrast, and always the same trouser. One
# buys certainty with variety.
#
# ## 7 Average
#
# Every step of training is made of 64 pictures and a draw of noise, so the weights tremble around a good place
# instead of staying there. Their running average does not tremble:
#
# $$\bar\theta \leftarrow d\, \bar\theta + (1 - d)\, \theta$$
#
# It costs a copy of the weights. Let us train on for a while, keep the average, and ask both networks now and then
# about the same pictures that they never saw, with the same noise.

# %%
unseen, unseen_kind = (split[:200] for split in load("test"))
times, noises = torch.linspace(0.005, 1, len(unseen)), torch.randn_like(unseen)
average, decay, curves = copy.deepcopy(network), 0.97, []
for step in range(MORE_STEPS):
    train_step()
    for mean, weight in zip(average.parameters(), network.parameters(), strict=True):
        mean.data.lerp_(weight.data, 1 - decay)
    if step % 4 == 3:
        with torch.no_grad():
            curves.append([loss_of(each, unseen, unseen_kind, times, noises) for each in (network, average)])

plt.figure(figsize=(6, 2.2))
plt.plot(range(4, MORE_STEPS + 1, 4), curves, label=["weights", "their average"])
plt.gca().set(xlabel="further steps", ylabel="loss of unseen pictures")
plt.legend()
plt.show()

# %% [markdown]
# The average is better at once, and steadily so. It draws our last pictures, three of each kind, with a little
# guidance:

# %%
noise = torch.randn(30, 1, 28, 28)
show(draw(average, ten.repeat(3), noise, guided(2))[0].unflatten(0, (3, 10)), scale=3)

# %% [markdown]
# That is all there is: a schedule, a loss, a network, a step, and two tricks. How good is it? Of 1,000 such pictures
# the package's scorer takes 83 % for the kind that was asked for (of real ones 91 %), and their FID is 5.9. The
# quickstart reaches 0.65: the same pictures and the same ideas, but a larger network, a better optimizer and more
# than twice as many steps.
#
# From here:
#
# - [1_flat_land](1_flat_land.ipynb) shows the same in two dimensions, where one can see what the network *does*.
# - [2_scorer](2_scorer.ipynb) asks how good such pictures are, in numbers.
# - `python train.py` is the quickstart; each further idea is one setting of it.

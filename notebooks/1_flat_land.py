# %% [markdown]
# # 1 · Flat land: diffusion one can see
#
# A picture of 28×28 pixels is a point in a space of 784 dimensions, and nobody can look at that. In a flat land,
# where a "picture" is a point of two numbers, everything about diffusion can be drawn: what the network answers at
# every place, the way that every sampler takes, and how guidance bends it.
#
# The objects are the package's own, the very ones that draw garments: a point is simply an image of two channels and
# one pixel, of the shape (2, 1, 1). Only the network is new, a dozen lines.

# %%
import math
import os

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional as F

from diffusion.denoiser import Denoiser, Estimate, Estimator
from diffusion.ema import EMA
from diffusion.guidance import ClassifierFree, Guided
from diffusion.loss import Target
from diffusion.networks.layers import Conditioning
from diffusion.objective import V
from diffusion.sampler import DDIM, Heun, UniPC
from diffusion.sampler.base import Noise
from diffusion.schedule import Cosine

# %% tags=["parameters"]
SMALL = "SMALL" in os.environ  # set it to see quickly whether everything runs
POINTS = 100 if SMALL else 200  # that the network learns from
STEPS = 20 if SMALL else 1500  # of training
BATCH = 64 if SMALL else 512  # points per step
DRAWN = 20 if SMALL else 600  # points in a cloud of samples
_ = torch.manual_seed(0)  # the same pictures each time

# %% [markdown]
# ## Two small worlds
#
# *Moons* are two classes, *rings* are three. Both fit into the square from −1 to 1, as pixels do.

# %%
COLOURS = ["#1f6f9f", "#e0791f", "#4f8f3a"]
plt.rcParams.update({"figure.dpi": 80, "font.size": 9, "axes.titlesize": 9, "figure.constrained_layout.use": True})


def moons(n):
    """n points (n, 2, 1, 1) and their classes (n,)."""
    angle, label = math.pi * torch.rand(n), torch.arange(n) % 2
    sign = 1.0 - 2 * label  # the second moon is the first, turned round and moved
    x_y = torch.stack([sign * angle.cos() - 0.5 + label, sign * angle.sin() - 0.25 + 0.5 * label], dim=1) / 1.6
    return (x_y + 0.04 * torch.randn(n, 2)).view(n, 2, 1, 1), label


def rings(n):
    """n points (n, 2, 1, 1) and their classes (n,)."""
    angle, label = 2 * math.pi * torch.rand(n), torch.arange(n) % 3
    radius = 0.2 + 0.35 * label + 0.03 * torch.randn(n)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1).view(n, 2, 1, 1), label


def panels(titles, rows=1, side=2.6, reach=1.3):
    """Empty squares beside each other, one for each title."""
    columns = len(titles) // rows
    _, axes = plt.subplots(rows, columns, figsize=(side * columns, (side + 0.2) * rows), squeeze=False)
    for ax, title in zip(axes.flat, titles, strict=True):
        ax.set(title=title, xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect="equal")
        ax.spines[:].set_color("#cccccc")
    return axes.flat


def dots(ax, points, labels=None, **style):
    """Points (n, 2, 1, 1), coloured by their classes."""
    colours = "#9a9a9a" if labels is None else [COLOURS[label] for label in labels]
    ax.scatter(*points.flatten(1).T, **{"s": 5, "c": colours, "linewidths": 0, **style})


for ax, world in zip(panels(["moons", "rings"]), (moons, rings), strict=True):
    dots(ax, *world(POINTS))

# %% [markdown]
# ## Noise washes the shape away
#
# $$x_t = \alpha(t)\, x_0 + \sigma(t)\, \varepsilon, \qquad \varepsilon \sim \mathcal N(0, 1)$$
#
# At $t = 0$ a point is where it belongs, at $t = 1$ nothing of the shape is left: all that remains is one round
# cloud, and that we can draw without any network. To draw moons is to walk back.

# %%
schedule, (points, labels) = Cosine(), moons(POINTS)
times = torch.tensor([0.0, 0.15, 0.3, 0.5, 0.75, 1.0])
alphas, sigmas = schedule(times)
titles = [f"t = {t:.2f}:  α = {a:.2f}, σ = {s + 0:.2f}" for t, a, s in zip(times, alphas, sigmas, strict=True)]
for ax, alpha, sigma in zip(panels(titles, rows=2, reach=2.5), alphas, sigmas, strict=True):
    x_0, classes = moons(400)
    dots(ax, alpha * x_0 + sigma * torch.randn(x_0.shape), classes)

# %% [markdown]
# ## The best possible answer
#
# A denoiser sees $x_t$ and guesses $x_0$. What is the best guess, the one of least squared error? The *mean* of all
# points that could have become $x_t$, each as likely as the noise says. For a finite set of points it is a formula of
# one line:
#
# $$\hat x_0(x_t, t) = \sum_i w_i\, x_i, \qquad w_i \propto \exp\Big(-\frac{|x_t - \alpha\, x_i|^2}{2 \sigma^2}\Big)$$
#
# No network, no training. `Estimator` is what every sampler of the package asks, so this formula can draw, too.


# %%
class Exact(Estimator):
    """The posterior mean of a finite set: points (n, 2, 1, 1) with classes (n,)."""

    def __init__(self, schedule, points, labels):
        super().__init__()
        self.schedule, self.points, self.labels = schedule, points.flatten(1), labels
        self.num_classes = int(labels.max()) + 1

    def estimate(self, x_t, t, labels=None):
        alpha, sigma = self.schedule(torch.tensor(t))
        distance = (x_t.flatten(1)[:, None] - alpha * self.points).square().sum(dim=2)  # (B, n)
        logits = -distance / (2 * sigma**2)
        if labels is not None:  # only the points of the class; num_classes is "no class"
            asked = labels[:, None]
            logits = logits.masked_fill((asked != self.labels) & (asked != self.num_classes), -math.inf)
        return Estimate((logits.softmax(dim=1) @ self.points).view_as(x_t))


def field(ax, denoiser, t, reach=1.3, label=None):
    """Arrows from x_t towards x̂_0, all over the land, at time t."""
    line = torch.linspace(-0.92 * reach, 0.92 * reach, 15)
    x_t = torch.cartesian_prod(line, line).view(-1, 2, 1, 1)
    asked = None if label is None else torch.full((len(x_t),), label)
    with torch.no_grad():
        way = (denoiser(x_t, t, asked) - x_t).flatten(1)
    length = way.norm(dim=1, keepdim=True)
    u, v = (way / length.clamp(min=0.1)).T
    ax.quiver(*x_t.flatten(1).T, u, v, length, cmap="viridis_r", scale=19, width=0.007, pivot="mid", clim=(0, 1.5))


exact, moments = Exact(schedule, points, labels), [0.8, 0.2, 0.05]
for ax, t in zip(panels([f"exact, t = {t}" for t in moments]), moments, strict=True):
    dots(ax, points, alpha=0.6)
    field(ax, exact, t)

# %% [markdown]
# The arrows lead from $x_t$ to $\hat x_0$; dark ones are long. At much noise ($t$ = 0.8) all point to the middle:
# from so far away the two moons are one blur, and its centre is the best guess. At less noise ($t$ = 0.2) they begin
# to part, towards the nearer moon, and at little noise ($t$ = 0.05) they lead to the nearest few points. A sampler
# follows these arrows while they change, from the coarse decision to the fine one.
#
# ## The learned answer
#
# A network shall find the same from examples alone. It follows the interface of the package's networks: $x$ (B, C, H,
# W), times from 0 to 1000, labels, of which `num_classes` means "none"; it answers in the shape of $x$. Schedule,
# objective and loss are then those of the garments:
#
# $$L = \big| F(x_t, t, y) - v \big|^2, \qquad v = \alpha\, \varepsilon - \sigma\, x_0, \qquad
# \hat x_0 = \alpha\, x_t - \sigma F$$


# %%
class MLP(nn.Module):
    """A few layers for points, which see their place as waves of many lengths: so they can tell near places apart."""

    def __init__(self, num_classes, width=128, layers=3):
        super().__init__()
        self.num_classes = num_classes
        self.register_buffer("frequencies", 2 * torch.randn(2, 64))
        self.conditioning = Conditioning(width, num_classes, hidden=True)
        self.first, self.last = nn.Linear(128, width), nn.Linear(width, 2)
        self.scales, self.layers = (nn.ModuleList(nn.Linear(width, width) for _ in range(layers)) for _ in range(2))

    def forward(self, x, t, labels):
        waves, vector = x.flatten(1) @ self.frequencies, self.conditioning(t, labels)
        h = self.first(torch.cat([waves.sin(), waves.cos()], dim=1)) + vector
        for scale, layer in zip(self.scales, self.layers, strict=True):
            h = h + layer(F.silu(h) * (1 + scale(F.silu(vector))))
        return self.last(F.silu(h)).view_as(x)


def learn(points, labels):
    """A denoiser with averaged weights, trained for some seconds, and its losses."""
    network = MLP(int(labels.max()) + 1)
    ema, denoiser = EMA(network, 0.99), Denoiser(network, schedule, V())
    loss, guidance, losses = Target(), ClassifierFree(dropout=0.2), []
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / STEPS)
        chosen = torch.randint(len(points), (BATCH,))
        told = guidance.drop(labels[chosen], torch.rand(BATCH), network.num_classes)
        x_0 = points[chosen]
        mean = loss(denoiser, x_0, 1 - torch.rand(BATCH), torch.randn_like(x_0), told).mean()
        optimizer.zero_grad()
        mean.backward()
        optimizer.step()
        ema.update(network)
        losses.append(mean.item())
    return Denoiser(ema.network, schedule, V()), losses


learned, losses = learn(points, labels)
plt.figure(figsize=(6, 2))
plt.plot(losses, linewidth=0.5)
plt.gca().set(xlabel="step", ylabel="loss", yscale="log")
plt.show()

# %% [markdown]
# Did it learn the right arrows? The formula and the network side by side, at much noise and at little:

# %%
pairs = [("exact", exact, 0.5), ("learned", learned, 0.5), ("exact", exact, 0.03), ("learned", learned, 0.03)]
titles = [f"{name}, t = {t}" for name, _, t in pairs]
for ax, (_, denoiser, t) in zip(panels(titles, side=2.4, reach=1.1), pairs, strict=True):
    dots(ax, points, alpha=0.6)
    field(ax, denoiser, t, reach=1.1)

# %% [markdown]
# At much noise they are the same. At little noise they are not: the formula leads to single *points*, the network to
# the *moon*. One would call that an error of the network. It is the reason why diffusion is of any use.
#
# ## Why the best answer is not the one we want
#
# The error of $v$ at each time, $|\hat v - v|^2 = |\hat x_0 - x_0|^2 / \sigma^2$, on the points that both know and on
# fresh points of the same moons:


# %%
def errors(denoiser, x_0, times, repeats=8):
    """The mean squared error of v at each time."""
    x_0, found = x_0.repeat(repeats, 1, 1, 1), []
    for t in times:
        alpha, sigma = schedule(torch.tensor(t))
        with torch.no_grad():
            guess = denoiser(alpha * x_0 + sigma * torch.randn(x_0.shape), t)
        found.append(float(((guess - x_0) / sigma).square().mean()))
    return found


times = [0.002, 0.003, 0.005, 0.007, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0]
_, axes = plt.subplots(1, 2, figsize=(7.4, 2.6), sharey=True)
for ax, title, x_0 in zip(axes, ("known points", "fresh points"), (points, moons(POINTS)[0]), strict=True):
    for name, denoiser, colour in (("exact", exact, COLOURS[1]), ("learned", learned, COLOURS[0])):
        ax.plot(times, errors(denoiser, x_0, times), label=name, color=colour)
    ax.set(title=title, xlabel="t", xscale="log", yscale="log")
axes[0].set_ylabel("error of v")
axes[0].legend()
plt.show()

# %% [markdown]
# On the points that it knows nothing can beat the formula, at any time: it is the floor under every loss curve. On
# fresh points it is worse than the network at little noise, for it knows its points by heart and nothing else. Let
# both draw:


# %%
def draw(denoiser, sampler, n, labels=None, seed=0):
    """Points (n, 2, 1, 1) and the way to them, (evaluations + 1, n, 2); point i begins at the noise of (seed, i)."""
    seen, noise = [], Noise(seed, range(n), (2, 1, 1), torch.device("cpu"))
    end = sampler.sample(denoiser, noise, labels, observe=lambda x_t, x_0: seen.append(x_t))
    return end, torch.stack([*seen, end]).flatten(2)


def from_nearest(drawn):
    """The median distance to the nearest known point."""
    return float(torch.cdist(drawn.flatten(1), points.flatten(1)).min(dim=1).values.median())


clouds = [draw(denoiser, DDIM(50, clip=False, grid="karras"), DRAWN)[0] for denoiser in (exact, learned)]
clouds.append(moons(DRAWN)[0])
names = ["drawn by the formula", "drawn by the network", "fresh from the moons"]
titles = [f"{name}\n{from_nearest(cloud):.3f} from a known point" for name, cloud in zip(names, clouds, strict=True)]
for ax, cloud in zip(panels(titles), clouds, strict=True):
    ax.set(xlim=(-0.75, 0.05), ylim=(-0.1, 0.7))  # a part of them, enlarged
    dots(ax, points, s=40, alpha=0.5)
    dots(ax, cloud, c=COLOURS[0], s=6)

# %% [markdown]
# Grey are the known points, blue the drawn ones. The formula draws its own points over and over: a perfect memory.
# The network draws *between* them, as far from them as fresh points are, and a few go astray, for it has learned for
# seconds only. It cannot follow the formula's sharp turns, and so it learns the shape instead of the list. The same
# is true of garments, and the scorer watches over it: see [2_scorer](2_scorer.ipynb) on copies.
#
# ## Three ways down
#
# The samplers ask the same denoiser and begin at the same places. DDIM follows the arrows in straight pieces. Heun
# looks where a piece would lead, and goes by the mean of the arrows at both of its ends: two questions a step, far
# fewer steps. DDPM adds fresh noise in every step, which the next arrows take away again.
#
# $$x_s = \alpha_s \hat x_0 + \sqrt{\sigma_s^2 - \eta^2 \tilde\beta}\; \hat\varepsilon + \eta \sqrt{\tilde\beta}\; z,
# \qquad \text{DDIM: } \eta = 0, \quad \text{DDPM: } \eta = 1$$


# %%
def ways(ax, path, every=1, n=30):
    """The ways of the first n points, from light to dark."""
    path = torch.cat([path[:-1:every], path[-1:]])[:, :n]
    for k in range(len(path) - 1):
        shade = plt.cm.viridis_r(0.1 + 0.9 * k / len(path))
        ax.plot(*path[k : k + 2].permute(2, 0, 1), color=shade, linewidth=0.7, alpha=0.8)
    ax.scatter(*path[0].T, s=7, facecolors="none", edgecolors="#b0b0b0", linewidths=0.6)
    ax.scatter(*path[-1].T, s=9, c="#b2182b", zorder=3, linewidths=0)


samplers = {
    "DDPM, 60 evaluations": (DDIM(60, eta=1, clip=False), 1),
    "DDIM, 30 evaluations": (DDIM(30, clip=False), 1),
    "Heun, 15 evaluations": (Heun(8, clip=False), 2),  # of each pair, the first is on the way
}
for ax, (sampler, every) in zip(panels(samplers, side=3, reach=2.6), samplers.values(), strict=True):
    dots(ax, points, s=3)
    ways(ax, draw(learned, sampler, 30)[1], every)

# %% [markdown]
# From the grey circles to the red dots. DDIM and Heun end at the same places, since they follow the same curves; DDPM
# loses its way at random and finds another end, as good a one. How few questions are enough? The distance of the ends
# from those of a very patient sampler:

# %%
calm = {"clip": False, "grid": "karras"}  # steps even in a root of the noise level
patient = draw(learned, Heun(40 if SMALL else 300, **calm), 200)[0]
asked = [5, 7, 9, 13, 19, 27, 39, 59, 99]
few = {
    "DDIM": [DDIM(n, **calm) for n in asked],
    "Heun": [Heun((n + 1) // 2, **calm) for n in asked],
    "UniPC": [UniPC(n, **calm) for n in asked],
}
plt.figure(figsize=(5, 2.6))
for colour, (name, each) in zip(COLOURS, few.items(), strict=True):
    apart = [float((draw(learned, sampler, 200)[0] - patient).flatten(1).norm(dim=1).mean()) for sampler in each]
    plt.loglog(asked, apart, "o-", markersize=3, label=name, color=colour)
plt.gca().set(xlabel="evaluations of the network", ylabel="distance from the end")
plt.legend()
plt.show()

# %% [markdown]
# A straight line in this picture is a power: twice the questions about halve the error of DDIM (first order), and
# about quarter that of Heun (second order). UniPC remembers its last answers instead of asking twice. That is why the
# quickstart draws with it, in 12 evaluations.
#
# ## Guidance bends the way
#
# $$\hat x_0 = \hat x_0(\text{none}) + w \cdot \big(\hat x_0(y) - \hat x_0(\text{none})\big)$$
#
# Every point below is asked for the *upper* moon, from the same noise as before. With $w = 0$ the wish is not heard,
# and half of them end below. $w = 1$ is the model as it was trained. A larger $w$ pushes away from what the other
# moon would have in common: the ways bend earlier, and the ends crowd together.

# %%
scales = [0.0, 1.0, 3.0, 6.0]
upper = torch.zeros(30, dtype=torch.long)
for ax, scale in zip(panels([f"w = {scale:g}" for scale in scales], side=2.4, reach=2.4), scales, strict=True):
    dots(ax, points, s=3)
    ways(ax, draw(Guided(learned, scale), DDIM(30, clip=False), 30, upper)[1])

# %% [markdown]
# Guidance needs no network: the formula takes labels, too. Its arrows, asked for the upper moon, say why the ways
# bend. With guidance they meet *beyond* the moon, on the side where the other moon is farthest: the surest place not
# to be mistaken.

# %%
shown = {f"exact, w = {scale:g}": Guided(exact, scale) for scale in (0.0, 1.0, 4.0)}
for ax, denoiser in zip(panels(shown, side=2.4), shown.values(), strict=True):
    dots(ax, points, labels, alpha=0.6)
    field(ax, denoiser, 0.5, label=0)

# %% [markdown]
# The same on rings, drawn by the formula for 900 points of them. Each ring is asked for by its own colour.

# %%
known = Exact(schedule, *rings(900))
wishes, scales = torch.arange(DRAWN) % 3, [0.0, 1.0, 2.0, 4.0]
for ax, scale in zip(panels([f"w = {scale:g}" for scale in scales], side=2.4), scales, strict=True):
    dots(ax, known.points, s=2, alpha=0.4)
    dots(ax, draw(Guided(known, scale), DDIM(30, clip=False), DRAWN, wishes)[0], wishes)

# %% [markdown]
# $w = 0$ mixes all colours, $w = 1$ puts each into its ring. Then comes the price: the outer ring leans outward, the
# inner one shrinks until it lies in the empty middle, *outside the data*, and the one between is pushed from both
# sides and loses its width. In a picture this is the contrast that is too hard, and the garment that always looks the
# same.

# %% [markdown]
# ## What to take along
#
# - A denoiser is a field of arrows that changes with the noise: first towards the middle, at last towards a detail.
# - The best field for a finite set only repeats the set. That networks miss it, smoothly, is why they draw new things.
# - Samplers differ in how well they follow the arrows, not in what they know.
# - Guidance exaggerates: a little makes a wish clear, a lot leaves the data.
#
# In 784 dimensions it is all the same: [3_unconditional](3_unconditional.ipynb),
# [4_conditional](4_conditional.ipynb).

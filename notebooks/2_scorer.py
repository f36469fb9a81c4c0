# %% [markdown]
# # 2 · The scorer: how good are these images?
#
# A diffusion model draws thousands of images. Nobody can look at all of them, and two people who do will not agree. So
# we let a small classifier look: it has learned what garments are, and we ask what it makes of a whole set of images.
# Two numbers come out of that, the **Inception Score** and the **FID**. Here we build both in a few lines each, check
# them against the package, and then try to fool them. They can be fooled, and it is good to know how.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.special import softmax
from torch.nn.functional import avg_pool2d

import diffusion
from diffusion.data.datasets import fashion_mnist_mini
from diffusion.data.images import encode
from diffusion.evaluation import metrics
from diffusion.evaluation.classifier import forward_frozen, train_classifier
from diffusion.evaluation.manifold import precision_recall

plt.rcParams.update({"figure.dpi": 80, "axes.spines.top": False, "axes.spines.right": False})

# %% tags=["parameters"]
SMALL = "SMALL" in os.environ  # a quick try: everything runs, and the numbers mean little
epochs = 1 if SMALL else 12
n = 300 if SMALL else 500  # images in every set that is scored
repeats = 2 if SMALL else 20  # random subsets behind every point of the curve

# %% [markdown]
# ## Real images first
#
# Fashion-MNIST has ten kinds of garment. The part of it that comes with the package has 6,000 images to learn from and
# 1,000 that nobody learns from, a hundred of each kind. We put the latter in an order that goes round the classes, so
# that the first n of them hold every class alike.

# %%
data = fashion_mnist_mini()
names = data.class_names
train_images, train_labels = data.train.images, data.train.labels
order = torch.stack([torch.where(data.test.labels == k)[0] for k in range(10)], dim=1).flatten()
test_images, test_labels = data.test.images[order], data.test.labels[order]
diffusion.show(test_images[:30], captions=names)

# %% [markdown]
# ## A classifier that knows garments
#
# Four convolutions, the mean over all places, and one linear layer:
#
# $$x \;\to\; f(x) \in \mathbb{R}^{192} \;\to\; p(y \mid x) = \text{softmax}(W f(x) + b)$$
#
# Two things of it will serve us. The **probabilities** $p(y \mid x)$ say which garment it sees and how sure it is. The
# **features** $f(x)$, one step before, are a description of the image in 192 numbers: images that look alike to the
# classifier lie close together there. The training keeps the epoch that does best on a held-out part of the 6,000
# images, and never flips an image: a scorer that was trained with flips could not see that a shoe faces the wrong way.

# %%
curves = []
classifier, record = train_classifier(data, torch.device("cpu"), epochs, log=lambda _, scores: curves.append(scores))


def look(images):
    """Features (n, 192) and logits (n, 10) of uint8 images (n, 1, 28, 28)."""
    parts = [forward_frozen(classifier, encode(part)) for part in images.split(250)]
    return [torch.cat(column).double().numpy() for column in zip(*parts, strict=True)]


features, logits = look(test_images)
confusion = metrics.confusion_matrix(logits, test_labels.numpy(), 10)
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), width_ratios=[1, 1.1])
for name in ("train/loss", "held_out/loss"):
    left.plot(range(1, epochs + 1), [scores[name] for scores in curves], label=name)
left.set(xlabel="epoch", title=f"loss; {metrics.accuracy(confusion):.1%} of the test images are recognised")
left.legend(frameon=False)
right.imshow(confusion, cmap="Blues")
right.set(title="what it is (rows), what it is taken for (columns)")
right.set_xticks(range(10), names, rotation=90)
right.set_yticks(range(10), names)
for row, column in np.argwhere(confusion > 0):
    colour = "white" if confusion[row, column] > 50 else "black"
    right.text(column, row, confusion[row, column], ha="center", va="center", fontsize=7, color=colour)
figure.tight_layout()
plt.show()

# %% [markdown]
# Look at the row of the shirts. T-shirt, pullover, coat or shirt: at 28 × 28 pixels people hesitate, too. Trousers and
# bags are hardly ever in doubt. Any score that is built on this classifier inherits what it knows and what it does not.
#
# ## Six sets of images whose faults we know
#
# Before we trust a score we should see what it says where we know the answer. So here are six sets of n images each:
# real ones that nobody trained on, and five with a fault. The last two are the mean ones. *One per class* shows a
# single perfect image of each garment over and over, which is a model that has collapsed. *Copies* are training images,
# which is a model that has learned everything by heart and can draw nothing new.

# %%
certain = [
    int(logits[test_labels.numpy() == k].max(axis=1).argmax()) * 10 + k for k in range(10)
]  # the clearest of each class
even = [torch.where(train_labels == k)[0][: n // 10] for k in range(10)]
sets = {
    "real": test_images[:n],
    "blurred": avg_pool2d(test_images[:n].float(), 3, 1, 1, count_include_pad=False).round().to(torch.uint8),
    "noise": torch.randint(0, 256, (n, 1, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8),
    "half of the classes": test_images[test_labels < 5][:n],
    "one per class": test_images[certain].repeat(n // 10, 1, 1, 1),
    "copies": train_images[torch.stack(even, dim=1).flatten()],
}
seen = {name: look(images) for name, images in sets.items()}
diffusion.show(torch.cat([images[10:20] for images in sets.values()]), rows=list(sets))

# %% [markdown]
# ## Inception Score: sure about each, and varied as a whole
#
# Good images should be recognised clearly: $p(y \mid x)$ has one tall bar. And a good set should hold everything: the
# mean of the bars over all images, $p(y)$, should be flat. The Inception Score
# ([Salimans et al. 2016](https://arxiv.org/abs/1606.03498)) measures how far the two are apart:
#
# $$\text{IS} = \exp\, \mathbb{E}_x\, \text{KL}\big(p(y \mid x) \,\|\, p(y)\big), \qquad
#   \text{KL}(p \,\|\, q) = \sum_y p(y) \log \frac{p(y)}{q(y)}$$
#
# It lies between 1 (all images say the same) and the number of classes, 10 (each image is sure, and all classes come
# equally often). Below, the first four panels are single images, the last one is the mean over a set.

# %%
figure, axes = plt.subplots(1, 5, figsize=(11, 2.4), sharey=True)
unsure = int(softmax(logits, axis=1).max(axis=1)[:n].argmin())
shown = {
    "a real ankle boot": seen["real"][1][9],
    "the same boot, blurred": seen["blurred"][1][9],
    "the least clear real image": logits[unsure],
    "noise": seen["noise"][1][0],
}
for axis, (name, values) in zip(axes, shown.items(), strict=False):
    axis.bar(range(10), softmax(values))
    axis.set_title(f"p(y|x)\n{name}", fontsize=9)
axes[-1].bar(range(10), softmax(seen["real"][1], axis=1).mean(axis=0), color="tab:green")
axes[-1].set_title("p(y)\nmean over real images", fontsize=9)
for axis in axes:
    axis.set_xticks(range(10), names, rotation=90, fontsize=7)
plt.show()


# %% [markdown]
# In code it is four lines. The package's own is a little longer, since it does not mind probabilities that are exactly
# zero and gives a spread over ten parts of the set; on one part both must agree.


# %%
def inception_score(logits):
    """IS of logits (n, K)."""
    p = softmax(logits, axis=1).clip(1e-300)
    marginal = p.mean(axis=0)
    divergence = (p * (np.log(p) - np.log(marginal))).sum(axis=1)
    return np.exp(divergence.mean())


for name, (_, values) in seen.items():
    ours, package = inception_score(values), metrics.inception_score(values, splits=1)[0]
    assert abs(ours - package) < 1e-6
    print(f"{name:20} IS {ours:5.2f}")

# %% [markdown]
# Noise and blur are seen. But look at *one per class*: ten images that are shown again and again score higher than all
# the variety of real life. The score only asks for sure verdicts in equal shares, and knows nothing of what is inside a
# class. Half of the classes cost about half of the score. And *copies* are above new real images for another reason:
# the classifier is surest of the images that it was trained on.
#
# ## FID: does the cloud of features have the same place and shape?
#
# Each image is a point in the space of features, a set of images is a cloud. The Fréchet Inception Distance
# ([Heusel et al. 2017](https://arxiv.org/abs/1706.08500)) describes two clouds by their mean $\mu$ and covariance
# $\Sigma$, as if they were Gaussians, and takes the distance of the two:
#
# $$\text{FID} = |\mu_a - \mu_b|^2 + \text{tr}\big(\Sigma_a + \Sigma_b - 2\,(\Sigma_a \Sigma_b)^{1/2}\big)$$
#
# The first part asks whether the clouds lie at the same place, the second whether they are equally wide in every
# direction. 192 dimensions cannot be drawn, so here are the two in which the training images differ most, with an
# ellipse at two standard deviations of each cloud.

# %%
reference, _ = look(train_images)
centre = reference.mean(axis=0)
plane = np.linalg.eigh(np.cov(reference.T))[1][:, [-1, -2]]  # the two main directions (192, 2)
circle = np.stack([np.cos(np.linspace(0, 2 * np.pi, 100)), np.sin(np.linspace(0, 2 * np.pi, 100))])
figure, axes = plt.subplots(1, 5, figsize=(12, 2.7), sharex=True, sharey=True)
for axis, name in zip(axes, list(sets)[1:], strict=True):
    for values, colour in ((seen["real"][0], "tab:gray"), (seen[name][0], "tab:red")):
        points = (values - centre) @ plane
        stretch = np.linalg.cholesky(np.cov(points.T) + 1e-9 * np.eye(2))
        axis.scatter(*points.T, s=2, alpha=0.35, color=colour)
        axis.plot(*(points.mean(axis=0)[:, None] + 2 * stretch @ circle), color=colour)
    axis.set_title(f"{name} (red), real (grey)", fontsize=9)
figure.tight_layout()
plt.show()


# %% [markdown]
# The trace of the root needs no root of a matrix: it is the sum of the roots of the eigenvalues of $\Sigma_a \Sigma_b$.
# We compare every set with all training images, and check each number against the package's.


# %%
def fid(a, b):
    """FID of features (n, d) and (m, d)."""
    difference = a.mean(axis=0) - b.mean(axis=0)
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    roots = np.sqrt(np.linalg.eigvals(cov_a @ cov_b).real.clip(min=0))
    return difference @ difference + np.trace(cov_a) + np.trace(cov_b) - 2 * roots.sum()


for name, (values, _) in seen.items():
    ours, package = fid(values, reference), metrics.frechet_distance(values, reference)
    assert abs(ours - package) < 1e-3
    print(f"{name:20} FID {ours:7.3f}")

# %% [markdown]
# ## What each sees, and what it misses
#
# The line of the real images is the **floor**: what a perfect model would score, with as many images. A score means
# something only beside it. Three more columns ask what the two scores do not:
#
# - **precision** and **recall** ([Kynkäänniemi et al. 2019](https://arxiv.org/abs/1904.06991)): the share of these
#   images that lie among real ones, and the share of real images that lie among these: quality and variety, apart;
# - **copies**: the share of images that are training images, pixel by pixel;
# - **different**: the share of images that are there only once.

# %%
known = {image.tobytes() for image in train_images.numpy()}
print(f"{'':20}{'IS':>8}{'FID':>9}{'precision':>11}{'recall':>8}{'copies':>8}{'different':>11}")
captions = []
for name, images in sets.items():
    values, verdicts = seen[name]
    pixels = [image.tobytes() for image in images.numpy()]
    score, distance = inception_score(verdicts), fid(values, reference)
    precision, recall = precision_recall(reference, values)
    copies, different = sum(each in known for each in pixels) / n, len(set(pixels)) / n
    print(f"{name:20}{score:8.2f}{distance:9.3f}{precision:11.2f}{recall:8.2f}{copies:8.2f}{different:11.2f}")
    captions.append(f"{name}: IS {score:.2f}, FID {distance:.2f}")
diffusion.show(torch.cat([images[11:20:2] for images in sets.values()]), rows=captions, scale=2)

# %% [markdown]
# Read the table line by line, against the first:
#
# - **blurred**: everything sees it, recall most of all, since hardly a real image lies among soft ones.
# - **noise**: far away by every measure. The Inception Score is near its least, 1, though the classifier, which never
#   saw noise, is surer of it than it should be.
# - **half of the classes**: the Inception Score falls by about half, and FID and recall notice. Precision does not:
#   what is there is fine.
# - **one per class**: the best Inception Score of all, though there are ten images in the whole set. FID rises, recall
#   is gone, and *different* says it outright.
# - **copies**: the best FID of all, *better than that of new real images*, and whatever else asks about quality or
#   variety is splendid. No such score can tell a model that has learned from one that has learned by heart. Only a
#   search for the nearest training images can, which is why every report of this package has one.
#
# ## FID depends on how many images you take
#
# A covariance of few images is a poor estimate, and FID takes the error for a difference. So it is too large for small
# sets, even for perfect images, by an amount that falls like 1/n:
#
# $$\text{FID}(n) \approx \text{FID}_\infty + \frac{c}{n}$$
#
# Below, each point is the mean over random subsets of real test images, or of blurred ones. Against 1/n the points lie
# on a line, and the line meets the axis where infinitely many images would be
# ([Chong & Forsyth 2020](https://arxiv.org/abs/1911.07023)).

# %%
random = np.random.default_rng(0)
everything = look(test_images)[0]
soft = look(avg_pool2d(test_images.float(), 3, 1, 1, count_include_pad=False).round().to(torch.uint8))[0]
sizes = np.array([100, 150, 200, 300, 400, 600, 800, 1000])
moments = metrics.Moments.of(reference)  # so that its root is computed once
figure, axes = plt.subplots(1, 3, figsize=(12, 3))
for name, values, axis in (("real", everything, axes[1]), ("blurred", soft, axes[2])):
    means = []
    for size in sizes:
        subsets = [values[random.choice(len(values), size, replace=False)] for _ in range(repeats)]
        means.append(np.mean([metrics.frechet_distance(subset, moments) for subset in subsets]))
    slope, infinite = np.polyfit(1 / sizes, means, 1)
    axes[0].plot(sizes, means, "o-", label=name)
    axis.plot(1 / sizes, means, "o", color="tab:blue" if name == "real" else "tab:orange")
    axis.plot([0, 0.01], [infinite, infinite + slope * 0.01], color="gray")
    axis.set(xlabel="1 / n", title=f"{name}: FID∞ ≈ {infinite:.2f}, c ≈ {slope:.0f}")
axes[0].set(xlabel="n, images that are scored", ylabel="FID", ylim=(0, None), title="the same images, fewer of them")
axes[0].legend(frameon=False)
figure.tight_layout()
plt.show()

# %% [markdown]
# The line of the real images meets the axis at about zero: their whole floor was bias, and a perfect model would have a
# FID of nothing if one drew without end. The line of the blurred ones does not: their distance is real. So never
# compare FIDs of different n, and never read one without the floor at that n.
#
# ## All of it in one line
#
# `diffusion.evaluate` takes a model or images, uses a classifier that was trained on all 60,000 images of
# Fashion-MNIST, and always puts real images beside. Its numbers differ from ours above, as its classifier is another
# one: **scores of different scorers do not compare**, either.

# %%
diffusion.evaluate(sets["blurred"], labels=test_labels[:n], data="fashion_mnist_mini")

# %% [markdown]
# ## To take along
#
# 1. A score belongs to its scorer, its reference and its n. Show the floor beside it.
# 2. The Inception Score does not look inside a class; FID does not know copies. Use several, and look at the pictures.
# 3. When a number is better than that of real images, something is wrong, with the model or with the score.
#
# To try: mirror the images (`images.flip(3)`) and see which score notices. Draw all shoes twice as often as the rest.
# Add so little noise that you cannot see it, and look at FID.

# %% [markdown]
# # 4 · Images on request: labels, guidance, averages
#
# A model that draws *something* is nice; one that draws a sneaker when you ask for a sneaker is useful. This notebook
# gives the network a label, lets it draw on request, and then turns the knob that everybody turns, the
# **guidance scale**: what it gains, what it costs, and where on the way it should act. In passing it shows why the
# weights that one draws with are an average.

# %%
import os

import matplotlib.pyplot as plt
import torch

import diffusion
from diffusion.data.datasets import fashion_mnist_mini
from diffusion.data.images import encode
from diffusion.sampler import UniPC
from diffusion.tasks import Inpaint, Interpolate, Job

plt.rcParams.update({"figure.dpi": 80, "axes.spines.top": False, "axes.spines.right": False})

# %% tags=["parameters"]
SMALL = "SMALL" in os.environ  # a quick try: everything runs, and the images are no images yet
images = 640 if SMALL else 30_000  # that the training sees
width = 16 if SMALL else 32  # of the network
n = 50 if SMALL else 500  # images behind every score
steps = 3 if SMALL else 12  # of the sampler
scales = [0, 2] if SMALL else [0, 1, 1.5, 2, 3, 5]  # of guidance
run = f"runs/width-{width}-images-{images}/labels"  # other sizes are another run, in a folder of its own

# %% [markdown]
# ## A label, and now and then none
#
# The network gets one more input, the class $y$, as a vector that is learned and added to that of the time $t$. With a
# probability of 10 % the label is left out, image by image:
#
# $$L = \mathbb{E}\; \big|\, v - v_\theta(x_t, t, y') \,\big|^2, \qquad
# y' = \begin{cases} \text{none} & \text{with probability } 0.1 \\ y & \text{else} \end{cases}$$
#
# So one network learns two things at once: what a sneaker looks like, $p(x \mid y)$, and what any garment looks like,
# $p(x)$. We shall need both. The learning rate is left at its height until the end here, for a reason that comes last.

# %%
config = diffusion.compose(
    "data=fashion_mnist_mini",
    f"model.width={width}",
    f"training.images={images}",
    "training.decay=constant",
    "guidance.dropout=0.1",
    "preview.steps=4",  # the grid that the run draws for itself
    "score.n=0",  # we score by hand
)
model = diffusion.train(config, run)
names = model.class_names
asked = torch.arange(10).repeat_interleave(6)
diffusion.show(model.sample(60, labels=asked, steps=steps), rows=names, scale=2)

# %% [markdown]
# Each row is one class, and each image has noise of its own.
#
# ## Guidance: exaggerate what the label changes
#
# At every step we can ask the network twice, with the label and without, and go further in the direction from the one
# answer to the other ([Ho & Salimans 2022](https://arxiv.org/abs/2207.12598)):
#
# $$\hat{x}_0 = \hat{x}_0(\text{none}) + w\, \big(\hat{x}_0(y) - \hat{x}_0(\text{none})\big)$$
#
# $w = 0$ forgets the label, $w = 1$ follows it, $w > 1$ exaggerates it. Below, one real image of a bag is drowned in
# noise, and we ask the network what it sees: without a label, with four different labels (upper row), and with the same
# labels exaggerated three times (lower row). The guess bends towards what it is told, the more so the more noise there
# is: try another `t`.

# %%
t = 0.85
alpha, sigma = model.noise_level(t)
data = fashion_mnist_mini()
bag = encode(data.test.images[data.test.labels == 8][3:4])
x_t = alpha * bag + sigma * torch.randn(bag.shape, generator=torch.Generator().manual_seed(0))
labels = torch.tensor([8, 0, 1, 9])
none = model.denoise(x_t, t)
told = model.denoise(x_t.expand(4, -1, -1, -1), t, labels)
guided = none + 3 * (told - none)
rows = torch.cat([bag, x_t, none, told, bag, x_t, none, guided])
heads = ["image", "x_t", "no label", *(names[k] for k in labels)]
diffusion.show(rows, captions=heads, rows=["w = 1", "w = 3"])

# %% [markdown]
# ## The knob
#
# The same noise and the same labels, with more and more guidance. At 0 each column is whatever it likes to be. At 1 it
# is mostly the garment that was asked for, though not always a good one. Then the images become clearer and more alike,
# and in the end too bright: trousers are *the* trousers.

# %%
asked = torch.tensor([0, 1, 3, 7, 8]).repeat_interleave(2)  # two images of five classes
heads = [names[k] for k in asked]
knobs = [{"scale": scale, "interval": []} for scale in scales]  # [] is everywhere
drawn = [model.sample(10, labels=asked, guidance=knob, steps=steps) for knob in knobs]
diffusion.show(torch.cat(drawn), captions=heads, scale=2, rows=[f"w = {scale}" for scale in scales])

# %% [markdown]
# Now as numbers, of n images for every scale. **Accuracy** is the share that a classifier takes for what was asked;
# **FID** is the distance from real images, lower is better; **precision** and **recall** are the shares of these images
# that lie among real ones, and of real ones that lie among these ([2_scorer](2_scorer.ipynb) explains all of them).


# %%
def scores(model, **how):
    """All scores of n images whose labels go round the classes."""
    drawn = model.sample(n, steps=steps, **how)
    return diffusion.evaluate(drawn, labels=torch.arange(n) % 10, data="fashion_mnist_mini")


found = [scores(model, guidance=knob) for knob in knobs]
real = found[0]["real"]
figure, axes = plt.subplots(1, 4, figsize=(12, 2.8))
for axis, name in zip(axes, ("accuracy", "precision", "recall", "fid"), strict=True):
    axis.plot(scales, [each[name] for each in found], "o-")
    axis.axhline(real[name], color="gray", linestyle="--")
    axis.set(xlabel="guidance scale w", title=name)
axes[0].set_title("accuracy (dashed: real images)")
axes[3].set_yscale("log")
figure.tight_layout()
plt.show()

# %% [markdown]
# Accuracy rises, soon above that of real images, for typical garments are easier to recognise than real ones. Precision
# rises with it, until exaggerated images leave the place where real ones are. Recall falls: there is ever less of the
# variety. FID wants both and has its least in between. No scale is right for all; whoever wants one beautiful sneaker
# takes more guidance than who wants to replace a data set.
#
# ## Guidance only where it helps
#
# At the very beginning, where nothing but noise is there, guidance pushes all images of a class in one direction,
# before anything of their own can show. So leave it out there
# ([Kynkäänniemi et al. 2024](https://arxiv.org/abs/2404.07724)): guide only where $\sigma/\alpha$ lies in an interval.
# That also saves work, for outside the network is asked once instead of twice. The same scale in three ways:


# %%
def table(found):
    """The main scores of several sets of images, a line each."""
    print(f"{'':20}{'FID':>8}{'recall':>10}{'precision':>12}{'accuracy':>11}")
    for name, each in found.items():
        print(f"{name:20}{each['fid']:8.2f}{each['recall']:10.2f}{each['precision']:12.2f}{each['accuracy']:11.2f}")


ways = {
    "not guided": {"scale": 1},
    "everywhere": {"scale": 3, "interval": []},
    "σ/α below 2.9": {"scale": 3, "interval": [0, 2.9]},
    "σ/α above 2.9": {"scale": 3, "interval": [2.9, 1e9]},
}
found, drawn, cost = {}, [], []
for name, guidance in ways.items():
    found[name] = scores(model, guidance=guidance)
    cost.append(f"{name} {model.image_model.evaluations:.0f}")
    drawn.append(model.sample(10, labels=asked, guidance=guidance, steps=steps))
table({**found, "real test images": real})
print(f"evaluations of the network for each image: {', '.join(cost)}")
diffusion.show(torch.cat(drawn), captions=heads, scale=2, rows=list(ways))

# %% [markdown]
# Compare the second line with the third: guided at low and middle noise alone, the model gets its recall back, has a
# lower FID, and still more of its images are recognised than of real ones. The fourth line is the reverse: guidance at
# the beginning alone is what costs the variety. That is why the quickstart guides below 2.9.
#
# ## Two sets of weights from one run
#
# Each training step sees 64 images and moves the weights by what these happen to say. The weights therefore tremble
# around a good place. An average over the last steps stands still,
#
# $$\bar\theta \leftarrow d_k\, \bar\theta + (1 - d_k)\, \theta, \qquad
# d_k = \min\Big(0.999,\; \frac{1 + k}{10 + k}\Big) \text{ at step } k,$$
#
# and costs next to nothing. A run keeps both sets, and `averaged=False` loads the trembling one. We left the learning
# rate high until the end so that there is something to see: look at the FID, and at grain and holes in the pictures. A
# learning rate that falls to zero calms the weights in another way, and then the two are close.

# %%
weights = {"averaged": model, "the last ones": diffusion.load(run, averaged=False)}
table({name: scores(each) for name, each in weights.items()})
drawn = [each.sample(10, labels=asked, steps=steps) for each in weights.values()]
diffusion.show(torch.cat(drawn), captions=heads, scale=2, rows=list(weights))

# %% [markdown]
# ## What else such a model can do
#
# It was trained to remove noise, and nothing else. But a model of what images look like can do more than draw.
# **Between two classes**: the noise stays and the label goes from the one to the other, by mixing the two estimates,
# $\hat{x}_0 = (1 - \lambda)\, \hat{x}_0(a) + \lambda\, \hat{x}_0(b)$.

# %%
sampler = UniPC(steps, clip=None)
job = Job(model.image_model, sampler, lambda: data, n=2, classes=[4, 1], seed=3, batch_size=100)  # coat, trouser
diffusion.show(Interpolate("classes", columns=12).run(job).images, captions=["Coat", *[""] * 10, "Trouser"])

# %% [markdown]
# **Painting what is missing**: at every noise level the known half of an image is put in place of the estimate, and the
# rest is drawn so that it fits. Each column is a test image, with its lower half painted anew in two ways.

# %%
job = Job(model.image_model, sampler, lambda: data, n=10, classes=None, seed=0, batch_size=100)
whole, _, captions = job.inputs(None)
painted = Inpaint("bottom", variations=2).run(job).images
diffusion.show(torch.cat([whole, painted]), captions=captions, rows=["test image", "1", "2"])

# %% [markdown]
# ## To take along
#
# 1. Drop the label now and then in training, and one network knows both $p(x \mid y)$ and $p(x)$.
# 2. Guidance trades variety for clarity. Show recall beside FID and accuracy, or you will only see the gain.
# 3. Guide at low and middle noise; draw with averaged weights.
#
# To try: `model.sample(16, labels="Sneaker", guidance=4)`; a scale for each class,
# `guidance=[1, 1, 2, 1, 2, 1, 3, 1, 1, 1]`; CFG++ by `guidance={"plus_plus": True, "scale": 0.6}` with
# `sampler=DDIM(25)`.

"""Which recipe suits a training of so many images: what a setting of "auto" becomes.

The width of a network follows from a scaling law (Hoffmann et al. 2022, https://arxiv.org/abs/2203.15556, eq. 2, with
one term more), here of the FID after N images with P parameters,

    FID(N, P) = floor + a (N / 10⁵)^-α (P / 10⁶)^-γ + b (P / 10⁶)^-β + d (N / 10⁵)^-δ

The first term is that of the beginning, in which a wide network learns far more from an image than a narrow one. A wide
network sees fewer images in the same time, so the best width is that of the least FID over the measured speeds.
`python benchmarks/recipe.py` fitted the coefficients to the trainings in docs/performance.md, "The rule behind auto",
but for the floor, the FID of as many real images, and for β, which they leave open: it is 1, whose widths in equal time
are those found by hand. Those of few images had the learning rate 4.5e-3, less than the rule now gives them. Learning
rate and scale of guidance follow from N alone, by `TABLE`; they and the constants below were set by hand from the
trainings there under "Where the error lies", "Ideas for the curve" and "The shortest runs".
"""

import math
from collections.abc import Mapping
from typing import NamedTuple


class Law(NamedTuple):
    """The coefficients of FID(N, P)."""

    floor: float
    a: float
    alpha: float
    gamma: float
    b: float
    beta: float
    d: float
    delta: float

    def __call__(self, images: float, parameters: float) -> float:
        """The FID after so many images with so many parameters."""
        n, p = images / 1e5, parameters / 1e6
        first = self.a * n**-self.alpha * p**-self.gamma
        return self.floor + first + self.b * p**-self.beta + self.d * n**-self.delta


class Row(NamedTuple):
    """What suits a training of so many images.

    Args:
        images: that it sees.
        lr: learning rate of Muon, at its height.
        scale: of guidance.
    """

    images: float
    lr: float
    scale: float


LAW = Law(floor=0.105, a=0.00709, alpha=2.4, gamma=1.05, b=0.0595, beta=1.0, d=0.0743, delta=0.595)
TABLE = (
    Row(17_500, lr=6.5e-3, scale=3.2),
    Row(31_000, lr=4.5e-3, scale=2.5),
    Row(76_000, lr=4e-3, scale=2.0),
    Row(196_000, lr=4e-3, scale=1.75),
)
EMA = 0.05  # width of the average, as a share of the run: whatever its length
INTERVAL = (0.15, 3.5)  # σ/α between which there is guidance
STEEPNESS = 1.25  # images/s fall like width^-STEEPNESS where nothing is measured
USUAL = 560.0  # images/s of a network of width FIRST on two CPU cores
# Narrower than 32 was worse in a minute of the slower of two machines, though the law has it a little better.
FIRST, WIDTHS = 32, (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256)
FIRST_IMAGES, GROWTH = 31_000, 0.376  # where the images are given, width = FIRST (images / FIRST_IMAGES)^GROWTH
LARGEST_BATCH = 1024
# Of batches of B images 1 / (1 + B / critical) count (McCandlish et al. 2018, https://arxiv.org/abs/1812.06162, eq.
# 2.11); the critical size grows with the training, CRITICAL √(N / 31,000). The law is of batches of BATCH images.
BATCH, CRITICAL = 64, 256.0


def numbers(images: float) -> Row:
    """The row of `TABLE` for so many images, between two of them by powers of N; those at its ends hold beyond them."""
    images = min(max(images, TABLE[0].images), TABLE[-1].images)
    above = next(row for row in TABLE if row.images >= images)
    below = max((row for row in TABLE if row.images <= images), key=lambda row: row.images)
    share = 0.0 if above is below else math.log(images / below.images) / math.log(above.images / below.images)
    between = (x ** (1 - share) * y**share for x, y in zip(below[1:], above[1:], strict=True))
    return Row(images, *(float(f"{value:.3g}") for value in between))


class Speeds:
    """Images per second by the width of the network, between and beyond the measured ones by powers of the width.

    Args:
        measured: width → images per second, at least one.
    """

    def __init__(self, measured: Mapping[int, float]) -> None:
        self.measured = dict(sorted(measured.items()))

    def __call__(self, width: int) -> float:
        """Images per second."""
        known = list(self.measured)
        below, above = [w for w in known if w <= width], [w for w in known if w >= width]
        if not below or not above:
            near = known[0] if not below else known[-1]
            return self.measured[near] * (width / near) ** -STEEPNESS
        low, high = below[-1], above[0]
        share = 0.0 if low == high else math.log(width / low) / math.log(high / low)
        return self.measured[low] ** (1 - share) * self.measured[high] ** share


def useful(images: float, batch: int) -> float:
    """How many images in batches of `BATCH` teach as much as so many in batches of another size."""
    critical = CRITICAL * math.sqrt(max(images, 1.0) / 31_000)
    return images * (1 + BATCH / critical) / (1 + batch / critical)


def width_in_time(parameters: Mapping[int, int], speeds: Speeds, seconds: float, batch: int = BATCH) -> int:
    """The width of the least FID after so many seconds.

    Args:
        parameters: width → how many a network has, of every width that there is to choose from.
        speeds: width → images per second.
        seconds: of training.
        batch: images of a step.
    """
    return min(parameters, key=lambda w: LAW(useful(seconds * speeds(w), batch), parameters[w]))


def width_for(parameters: Mapping[int, int], images: float) -> int:
    """The width for so many images, which are given whatever time they take: by a power of them through the widths 32,
    48 and 64 that were found by hand for 31,000, 76,000 and 196,000 images."""
    wanted = FIRST * (images / FIRST_IMAGES) ** GROWTH
    return min(parameters, key=lambda width: abs(math.log(width / wanted)))

"""nanoflow: flow matching with labels by a small U-Net, written anew from what its project publishes.

The project (github.com/tqhdesilva/nanoflow) is a set of scripts and no package, so its network is written here. Its
README says about 347 thousand parameters; models.py, configs/experiment/fashion_cfg.yaml and what that includes say
the rest: width 32, two halvings, 64 numbers for time and label, Adam at 1e-3 on batches of 128, the gradient clipped
to 1, labels dropped with 0.1, no average of the weights. Training is

    x_t = (1 − t) ε + t x_0     loss = |v(x_t, t, label) − (x_0 − ε)|²     t uniform in [0, 1]

and drawing follows dx/dt = v from t = 0 to 1 by Euler's steps.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peers.base import CLASSES, EVALUATIONS, Peer


class Embedding(nn.Module):
    """t in [0, 1] and a label as one vector: sines and cosines of 1000 t through two layers, plus a row of a table.

    Args:
        width: numbers that it gives.
        labels: rows of the table, with that for "no label"; 0 leaves it out.
    """

    rates: Tensor

    def __init__(self, width: int, labels: int) -> None:
        super().__init__()
        half = width // 2
        self.register_buffer("rates", torch.logspace(0, -4, half), persistent=False)
        self.layers = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.labels = nn.Embedding(labels, width) if labels else None

    def forward(self, t: Tensor, labels: Tensor | None) -> Tensor:
        angles = 1000 * t[:, None] * self.rates  # (B, width / 2)
        embedding = self.layers(torch.cat([angles.sin(), angles.cos()], dim=1))
        return embedding if self.labels is None else embedding + self.labels(labels)


class Block(nn.Module):
    """Two 3×3 convolutions beside a shortcut; the embedding is added between them."""

    def __init__(self, before: int, after: int, embedding: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.GroupNorm(8, before), nn.GroupNorm(8, after)])
        self.convolutions = nn.ModuleList(
            [nn.Conv2d(before, after, 3, padding=1), nn.Conv2d(after, after, 3, padding=1)]
        )
        self.shift = nn.Linear(embedding, after)
        self.shortcut = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.convolutions[0](F.gelu(self.norms[0](x))) + self.shift(embedding)[:, :, None, None]
        return self.shortcut(x) + self.convolutions[1](F.gelu(self.norms[1](h)))


class Level(nn.Module):
    """A resolution: a block, everything at half of it, and a block that joins both.

    Args:
        widths: channels here, those that the half resolution gets, and those that leave.
        inner: what happens at half the resolution; it returns as many channels as there are here.
        embedding: numbers for time and label.
    """

    def __init__(self, widths: tuple[int, int, int], inner: nn.Module, embedding: int) -> None:
        super().__init__()
        here, below, after = widths
        self.first = Block(here, here, embedding)
        self.down = nn.Conv2d(here, below, 3, stride=2, padding=1)
        self.inner = inner
        self.up = nn.ConvTranspose2d(here, here, 2, stride=2)
        self.last = Block(2 * here, after, embedding)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        x = self.first(x, embedding)
        return self.last(torch.cat([self.up(self.inner(self.down(x), embedding)), x], dim=1), embedding)


class UNet(nn.Module):
    """v(x_t, t, label): 28×28 with `width` channels, 14×14 and 7×7 with twice as many.

    Args:
        width: channels of the first level.
        embedding: numbers for time and label.
        num_classes: labels; 0 for a network that knows none.
    """

    def __init__(self, width: int = 32, embedding: int = 64, num_classes: int = CLASSES) -> None:
        super().__init__()
        wide = 2 * width
        self.embedding = Embedding(embedding, num_classes + 1 if num_classes else 0)
        self.into = nn.Conv2d(1, width, 3, padding=1)
        lowest = Level((wide, wide, width), Block(wide, wide, embedding), embedding)
        self.levels = Level((width, wide, width), lowest, embedding)
        self.out = nn.Conv2d(width, 1, 1)

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.out(self.levels(self.into(x_t), self.embedding(t, labels)))


def euler(velocity: Callable[[Tensor, Tensor], Tensor], x: Tensor, times: Sequence[float]) -> Tensor:
    """Follow dx/dt = velocity(x, t) for a time of 1, in equal steps, each with the velocity of its time in `times`."""
    for t in times:
        x = x + velocity(x, torch.full((len(x),), t, device=x.device)) / len(times)
    return x


class NanoFlow(Peer):
    """nanoflow's `experiment=fashion_cfg`.

    Args:
        device: where.
        own: drawn as its config says, with 200 steps and scale 3, instead of 10 and the 2 of its previews.
    """

    padding, conditional = 0, True
    dropout = 0.1

    def __init__(self, device: torch.device, own: bool = False) -> None:
        rewritten = "written anew from its published settings, since it is no package"
        super().__init__(device, 128, (rewritten,))
        self.scale, self.steps = (3.0, 200) if own else (2.0, EVALUATIONS // 2)
        self.own, self.evaluations = own, 2 * self.steps
        grid = ", at its times, of which the last is 1" if own else ", at Euler's times instead of its own"
        self.drawing = (f"drawn in {self.steps} guided steps of Euler with scale {self.scale:g}{grid}",)
        self.network = UNet().to(device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-3)

    def inputs(self, n: int) -> tuple[Tensor, ...]:
        x, _ = super().inputs(n)
        return x, torch.full((n,), 0.5, device=self.device), torch.zeros(n, dtype=torch.long, device=self.device)

    def loss(self, x_0: Tensor, labels: Tensor) -> Tensor:
        noise, t = torch.randn_like(x_0), torch.rand(len(x_0), device=self.device)
        given = labels.masked_fill(torch.rand(len(x_0), device=self.device) < self.dropout, CLASSES)
        x_t = torch.lerp(noise, x_0, t.view(-1, 1, 1, 1))
        return F.mse_loss(self.network(x_t, t, given), x_0 - noise)

    def update(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def finish(self) -> None:
        """It has no average."""

    def guided(self, x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """v without the label, and `scale` times the way to v with it (Ho & Salimans 2022, eq. 6, w = scale − 1)."""
        free = self.network(x_t, t, torch.full_like(labels, CLASSES))
        return free + self.scale * (self.network(x_t, t, labels) - free)

    def draw(self, labels: Tensor) -> Tensor:
        last = self.steps - 1 if self.own else self.steps  # its times reach t = 1, so that they are not those of Euler
        times = [step / last for step in range(self.steps)]
        noise = torch.randn(len(labels), 1, 28, 28, device=self.device)
        return euler(lambda x_t, t: self.guided(x_t, t, labels), noise, times)

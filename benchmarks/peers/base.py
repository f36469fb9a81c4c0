"""What a peer is: a network, the loss and update of its project, and its way to draw."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from diffusion.data.images import ImageFiles, Images, batches, crop_images, decode, encode, pad_images

EVALUATIONS = 20
DRAWN_AT_ONCE = 50
CLASSES = 10
COMMON = (
    "its training loop is written out with the same settings and fed from memory: no loader, log, preview or "
    "checkpoint (in its favour)",
    "images are not mirrored at random: garments look one way (in its favour)",
    f"images are drawn {DRAWN_AT_ONCE} at a time",
)
PADDED = "28×28 pixels get a black border to 32×32, where its script would enlarge them (in its favour)"


class Peer(ABC):
    """A project with its untrained network.

    Attributes:
        padding: pixels that it gets on every side (28 → 32 is 2).
        conditional: it learns with labels and draws the classes in turn.
        network: what it trains; after `finish` with the averaged weights.
        batch_size: images per optimizer step.
        at_once: of them that go through the network together, for memory; the gradient is the same.
        evaluations: of the network for an image; with guidance two a step.
        deviations: of its training from the recipe as it is shipped, besides `COMMON`.
        drawing: how it draws, where that needs a word.
        progress: share of the run that is over, which the training loop keeps up to date.
    """

    padding: int
    conditional = False
    network: nn.Module
    optimizer: torch.optim.Optimizer
    bf16 = False
    evaluations: float = EVALUATIONS
    drawing: tuple[str, ...] = ()

    def __init__(self, device: torch.device, batch_size: int, deviations: tuple[str, ...] = ()) -> None:
        self.device, self.batch_size, self.deviations = device, batch_size, deviations
        self.at_once, self.progress = batch_size, 0.0

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """One optimizer step on uint8 (B, 1, 28, 28) and their labels (B,); the mean loss before it, ()."""
        self.network.train()
        total = torch.zeros((), device=self.device)
        parts = images.to(self.device).split(self.at_once), labels.to(self.device).split(self.at_once)
        for part, its_labels in zip(*parts, strict=True):
            x_0 = encode(pad_images(part, self.padding))
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                loss = self.loss(x_0, its_labels) * (len(part) / len(images))
            loss.backward()
            total += loss.detach()
        self.update()
        return total

    def stream(self, data: Images | ImageFiles, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The endless batches of a split with labels, for `step`."""
        for images, labels in batches(data, self.batch_size, seed, 0, self.device):
            assert labels is not None
            yield images, labels

    def sample(self, n: int) -> tuple[Tensor, Tensor | None]:
        """Draw n images: uint8 (n, 1, 28, 28) on the CPU, and the classes (n,) that were asked for, if any."""
        self.network.eval()
        labels, parts = torch.arange(n) % CLASSES, []
        with torch.no_grad():
            for some in labels.split(DRAWN_AT_ONCE):
                parts.append(decode(self.draw(some.to(self.device))).cpu())
        return crop_images(torch.cat(parts), self.padding), labels if self.conditional else None

    def inputs(self, n: int) -> tuple[Tensor, ...]:
        """What the network is called with for n images, in its order: x (n, 1, S, S), times, labels if it has them."""
        size = 28 + 2 * self.padding
        times = torch.full((n,), 500, device=self.device)
        return torch.randn(n, 1, size, size, device=self.device), times

    @abstractmethod
    def loss(self, x_0: Tensor, labels: Tensor) -> Tensor:
        """The mean loss, (), of images (B, 1, S, S) in [−1, 1] with labels (B,), which unconditional peers ignore."""

    @abstractmethod
    def update(self) -> None:
        """What follows the backward pass: clipping, optimizer, learning rate, average."""

    @abstractmethod
    def finish(self) -> None:
        """Give the averaged weights to the network, which draws from now on."""

    @abstractmethod
    def draw(self, labels: Tensor) -> Tensor:
        """An image for each label (B,), which unconditional peers only count: (B, 1, S, S) in [−1, 1]."""

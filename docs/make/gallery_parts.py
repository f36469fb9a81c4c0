"""What the pictures of the gallery have in common: the options found in conf/, the images, the model, the style."""

import inspect
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

import diffusion
from diffusion.config.build import build, measured
from diffusion.data.datasets import fashion_mnist_mini
from diffusion.data.images import ImageData, decode
from diffusion.denoiser import per_image
from diffusion.drawing.pictures import tile
from diffusion.model import Model
from diffusion.system.errors import UserError
from diffusion.system.files import replacing

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "docs" / "gallery"
DPI = 120
COLOURS = "#0b6fb8 #e07b00 #2a9d5c #c8322f #7d55b5 #8a5a3c #d65fa5 #555f6b".split()
STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with Matplotlib, so that the pictures are the same everywhere
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a94a0",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e9ed",
    "xtick.color": "#4a5560",
    "ytick.color": "#4a5560",
    "lines.linewidth": 1.7,
    "legend.frameon": False,
    "figure.dpi": DPI,
}


# ------------------------------------------------------------------------------------- what is shown


def options(group: str) -> list[str]:
    """The options of a config group, as conf/ has them."""
    return sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))


def coloured(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each name with a colour of its own."""
    return ((name, COLOURS[i % len(COLOURS)]) for i, name in enumerate(names))


def layered(names: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each name with the look of its line: thinner lines lie on thicker ones, so that all are seen where they meet."""
    widths = torch.linspace(4.2, 1.2, len(names)).tolist()
    return ((name, {"color": c, "linewidth": w}) for (name, c), w in zip(coloured(names), widths, strict=True))


class Material:
    """What pictures are made of: images of Fashion-MNIST, the parts that conf/ describes, and a trained model.

    Args:
        checkpoint: of the model: a run folder, a checkpoint, or "latest".
    """

    def __init__(self, checkpoint: str = "latest") -> None:
        self.checkpoint = checkpoint

    @cached_property
    def data(self) -> ImageData:
        """The images that come with the package."""
        return fashion_mnist_mini()

    @cached_property
    def image(self) -> dict[str, Any]:
        """What a model must know of them."""
        return self.data.describe()

    @cached_property
    def model(self) -> Model:
        """The trained model, in fp32, so that the pictures are the same on every CPU but for rounding.

        Raises:
            UserError: it does not draw the garments that come with the package.
        """
        model = diffusion.load(self.checkpoint, device="cpu", precision="fp32")
        if model.class_names != self.data.class_names or not model.image_model.guidance.conditional:
            raise UserError(
                f"checkpoint={self.checkpoint} draws {', '.join(model.class_names[:3]) or 'no classes'}, and the "
                "gallery shows the ten garments of the quickstart: make such a model by python train.py."
            )
        return model

    def part(self, group: str, option: str, offer: dict[str, Any] | None = None, **settings: Any) -> Any:
        """What `group=option` stands for, as a run builds it.

        Args:
            offer: objects that its constructor may need.
            settings: other values than those of its file.
        """
        node: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / group / f"{option}.yaml"))
        return build(measured({**node, **settings}, self.image), group, offer)

    def garments(self, labels: Sequence[int]) -> Tensor:
        """The first test image of each of these classes, uint8 (n, 1, 28, 28)."""
        assert self.data.test.labels is not None
        numbers = [int((self.data.test.labels == label).nonzero()[0]) for label in labels]
        return self.data.test.select(torch.tensor(numbers))[0]


@dataclass(frozen=True)
class Picture:
    """A picture of the gallery.

    Args:
        name: of its file.
        group: of the config that it belongs to.
        title, command: what stands above it.
        caption: what stands under it.
        draw: makes it.
        whole: whether it shows every option of its group.
    """

    name: str
    group: str
    title: str
    command: str
    caption: str
    draw: Callable[[Material], Figure]
    whole: bool

    @property
    def shows(self) -> list[str]:
        """The options that are seen in it."""
        return options(self.group) if self.whole else []

    def write(self, made: Material, folder: Path = FOLDER) -> None:
        """Draw it as a PNG, whose text "shows" names the options."""
        with rc_context(STYLE):
            figure, drawn = self.draw(made), io.BytesIO()
            figure.savefig(drawn, metadata={"Software": None})
        image, text = Image.open(drawn).convert("RGB"), PngInfo()
        red, green, blue = (channel.tobytes() for channel in image.split())
        image = image.convert("L") if red == green == blue else image
        text.add_text("shows", " ".join(self.shows))
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / f"{self.name}.png") as temporary:
            image.save(temporary, "PNG", optimize=True, pnginfo=text)


PICTURES: list[Picture] = []


def picture(group: str, title: str, command: str, whole: bool = False) -> Callable:
    """Put a function Material → Figure into the gallery, where its docstring is the caption."""

    def put(draw: Callable[[Material], Figure]) -> Callable[[Material], Figure]:
        PICTURES.append(Picture(draw.__name__, group, title, command, inspect.getdoc(draw) or "", draw, whole))
        return draw

    return put


# ------------------------------------------------------------------------------------- how it is drawn


def contrasted(x: Tensor) -> Tensor:
    """x (n, C, H, W) → uint8, each image with its own contrast, but [−1, 1] is never stretched."""
    largest = x.abs().flatten(1).quantile(0.98, dim=1).clamp(min=1)
    return decode(x / per_image(largest, x))


def charts(columns: int, rows: int = 1, height: float = 2.9, **layout: Any) -> tuple[Figure, Any]:
    """A figure of the page's width with axes side by side, and the axes."""
    figure = Figure(figsize=(8.6, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, **layout)


def legend_below(figure: Figure, axes: Any, columns: int = 8) -> None:
    """One legend, under all axes, of the lines in `axes`."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(labels)), handlelength=1.6)


def image_grid(rows: Sequence[str], blocks: Sequence[tuple[str | Sequence[str], Tensor]], scale: int = 3) -> Figure:
    """Images in rows, enlarged by repeating pixels, in one or several blocks side by side.

    Args:
        rows: a caption for each row, to its left.
        blocks: what stands over a block, or over each of its columns; and its uint8 images (n, C, H, W), row by row.
        scale: enlargement.
    """
    gap, head = 16, 26
    side = 12 + 8 * max(map(len, rows)) if any(rows) else 0
    tiles = [tile(images, len(images) // len(rows), gap=1).repeat_interleave(scale, 1) for _, images in blocks]
    tiles = [each.repeat_interleave(scale, 2) for each in tiles]
    width = side + sum(each.shape[2] + gap for each in tiles) - gap // 2
    tallest = max(each.shape[1] for each in tiles)
    height = tallest + head
    figure, left = Figure(figsize=((width + 0.1) / DPI, (height + 0.1) / DPI)), side  # rounded down to pixels
    for i, row in enumerate(rows):
        y = (tallest * (1 - (i + 0.5) / len(rows))) / height
        figure.text((side - 8) / width, y, row, ha="right", va="center", size=8.5)
    for (heads, _), each in zip(blocks, tiles, strict=True):
        high, wide = each.shape[1:]
        pixels = each.expand(3, -1, -1).permute(1, 2, 0).numpy()
        figure.figimage(pixels, left, tallest - high)
        texts = [heads] if isinstance(heads, str) else heads
        for k, text in enumerate(texts):
            x = (left + wide * (k + 0.5) / len(texts)) / width
            figure.text(x, (tallest + head / 2) / height, text, ha="center", va="center", size=8.5)
        left += wide + gap
    return figure

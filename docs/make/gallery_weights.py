"""Pictures of what happens to the weights: their average, and one step of each optimizer."""

import torch
from gallery_parts import Material, charts, coloured, layered, legend_below, options, picture
from matplotlib.figure import Figure
from torch import Tensor, nn

from diffusion.ema import PowerEMA
from diffusion.system.randomness import NETWORK, stream


class Diary(nn.Module):
    """Weights that say which step they are of: a 1 at its place, 0 elsewhere. Their average is its own profile."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.days = nn.Parameter(torch.zeros(steps + 1), requires_grad=False)
        self.days[0] = 1

    def write(self, step: int) -> None:
        """Now the weights are those of this step."""
        self.days.zero_()
        self.days[step] = 1


def profiles(made: Material, option: str, steps: int) -> dict[str, Tensor]:
    """How much the weights of each step, 0 (the first ones) to `steps`, count in the averages that an option keeps."""
    diary = Diary(steps)
    ema = made.part("ema", option, {"network": diary})
    for step in range(1, steps + 1):
        diary.write(step)
        ema.update(diary)
    if isinstance(ema, PowerEMA):
        return {f"{option}, width {width:g}": average.days for width, average in ema.averages.items()}  # type: ignore[misc]
    return {option: ema.network.days}


@picture("ema", "How far back the average of the weights reaches", "python train.py ema=power", whole=True)
def ema_profiles(made: Material) -> Figure:
    """How much the weights of every moment of the run count in its average at the end, for a short run and one twenty
    times as long. `average` (decay 0.999) lies on `power` of width 0.1 in the short run and of width 0.05 in the long
    one: it looks back over a thousand steps and no more, and `power` over the same share of any run. `power` also keeps
    several widths, to choose from afterwards. `none`, the line at the right edge, takes the last weights alone."""
    figure, axes_of = charts(2, sharey=True)
    for steps, axes in zip((1000, 20_000), axes_of, strict=True):
        found = {name: p for option in options("ema") for name, p in profiles(made, option, steps).items()}
        for name, look in layered(list(found)):
            axes.plot(torch.arange(steps + 1) / steps, found[name] * steps, label=name, **look)
        axes.set(title=f"after {steps:,} steps", xlabel="share of the run", ylim=(0, 16))
    axes_of[0].set_ylabel("weight, 1 is the plain mean")
    legend_below(figure, axes_of[0])
    return figure


def one_step(made: Material, option: str, gradient: Tensor) -> Tensor:
    """How a matrix moves in its first step, along its gradient."""
    parameter = nn.Parameter(torch.zeros_like(gradient))
    parameter.grad = gradient.clone()
    made.part("optimizer", option, {"params": [parameter]}).step()
    return -parameter.data


@picture("optimizer", "One step of a weight matrix", "python train.py optimizer=adamw optimizer.lr=2e-4", whole=True)
def optimizer_step(made: Material) -> Figure:
    """A gradient in which a few directions are strong and most are weak, and the first step that each optimizer makes
    of it. `adamw` moves every entry by the same amount, and the strong directions still lead; `muon` makes all
    directions nearly equally strong: its singular values, on the right, stay within a factor of two."""
    generator = stream(0, NETWORK)
    left, right = (torch.linalg.qr(torch.randn(24, 24, generator=generator))[0] for _ in range(2))
    gradient = left @ torch.diag(0.8 ** torch.arange(24)) @ right.T
    moves = {"gradient": gradient} | {name: one_step(made, name, gradient) for name in options("optimizer")}
    figure, axes_of = charts(len(moves) + 1, height=2.3)
    for (name, colour), axes in zip(coloured(list(moves)), axes_of, strict=False):
        largest = 3 * float(moves[name].std())
        axes.imshow(moves[name].numpy(), cmap="RdBu", vmin=-largest, vmax=largest)
        axes.set_title(name)
        axes.set_axis_off()
        values = torch.linalg.svdvals(moves[name])
        axes_of[-1].plot(range(1, 25), values / values[0], ".-", color=colour, label=name, markersize=4)
    axes_of[-1].set(title="singular values, largest = 1", ylim=(0, 1.05))
    axes_of[-1].legend(fontsize=8)
    return figure

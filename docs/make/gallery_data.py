"""Pictures of what is done to images before they are trained."""

import numpy as np
import torch
from gallery_parts import Material, image_grid, picture
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from diffusion.data.augmentation import Augmentation
from diffusion.data.fitting import FITS, fitted

GROUNDS = {"black": (0, 0, 0), "grey": (150, 150, 150)}


@picture("data", "An image of another shape", "python train.py data=image_folder data.root=PHOTOS data.fit=pad")
def data_fit(made: Material) -> Figure:
    """A picture three times as wide as high, brought to a square by every `data.fit`: `crop` keeps its middle, `pad`
    all of it, between bands of the background, and `stretch` squeezes it."""
    strip = torch.cat(list(made.garments([7, 8, 9])), dim=2)  # (1, 28, 84)
    wide = Image.fromarray(strip[0].numpy())
    blocks: list[tuple[str, Tensor]] = [("the picture", strip[None])]
    for fit in FITS:
        for name, colour in GROUNDS.items() if fit == "pad" else [("black", GROUNDS["black"])]:
            image = torch.from_numpy(np.asarray(fitted(wide, (28, 28), fit, colour)).copy())
            blocks.append((f"{fit}, {name}" if fit == "pad" else fit, image[None, None]))
    return image_grid([""], blocks, scale=4)


@picture("data", "One image, varied for training", "python train.py data.flip=true data.shift=3")
def data_variations(made: Material) -> Figure:
    """One boot as ten steps of a training may see it. `flip` mirrors it every second time, by chance; `shift=3` moves
    it by up to three pixels each way and repeats the edge. Mind what a flip means for your images: here all shoes face
    one way, and a model trained with it will draw them facing both."""
    images = made.garments([9]).expand(10, -1, -1, -1)
    kinds = {"as it is": Augmentation(), "flip": Augmentation(flip=True), "shift=3": Augmentation(shift=3)}
    kinds["both"] = Augmentation(flip=True, shift=3)
    rows = torch.cat([vary(images, seed=0, step=1, batch_size=10) for vary in kinds.values()])
    return image_grid(list(kinds), [([str(k + 1) for k in range(10)], rows)])

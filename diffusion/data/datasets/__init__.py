"""The data sets, one function each; a new one needs a function here and a file of two lines in conf/data/.

known.py   Fashion-MNIST, MNIST, KMNIST, CIFAR-10
folder.py  a folder of images
arrays.py  NumPy's .npz and .npy
hub.py     the library `datasets`
"""

from diffusion.data.datasets.arrays import arrays
from diffusion.data.datasets.folder import image_folder
from diffusion.data.datasets.hub import huggingface
from diffusion.data.datasets.known import (
    cifar10,
    fashion_mnist,
    fashion_mnist_here,
    fashion_mnist_mini,
    kmnist,
    mnist,
    read_idx,
)

__all__ = [
    "arrays",
    "cifar10",
    "fashion_mnist",
    "fashion_mnist_here",
    "fashion_mnist_mini",
    "huggingface",
    "image_folder",
    "kmnist",
    "mnist",
    "read_idx",
]

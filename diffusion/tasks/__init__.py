"""What can be asked of a trained model besides new images: each task needs nothing but its denoiser.

base.py            what a task is given and gives back, and `Generate`, the task of drawing new images
inpaint.py         parts of an image painted anew
image_to_image.py  an image drawn again from under some noise
interpolate.py     what lies between two seeds, or two classes
invert.py          the noise that an image comes from
"""

from diffusion.tasks.base import Generate, Job, Result, Task
from diffusion.tasks.image_to_image import ImageToImage
from diffusion.tasks.inpaint import Inpaint
from diffusion.tasks.interpolate import Interpolate
from diffusion.tasks.invert import Invert

__all__ = ["Generate", "ImageToImage", "Inpaint", "Interpolate", "Invert", "Job", "Result", "Task"]

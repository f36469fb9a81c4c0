"""At which noise levels a model errs.

    python benchmarks/by_noise_level.py RUN                          some four minutes for a run of four minutes
    python benchmarks/by_noise_level.py RUN --n 500 --scales 2 --times 0.1 1

Test images are noised to a time t, and drawn from there to the end by the run's own sampler. With little noise most of
the image is given and the FID is nearly that of the test images; what it rises from one t to the next was added between
these two. At t = 1 nothing is given.
"""

import argparse
from collections.abc import Iterator, Sequence

import torch
from judge import Judge

import diffusion
from diffusion.evaluation.document import markdown_table
from diffusion.guidance import ClassifierFree
from diffusion.model import Model
from diffusion.sampler.base import Conditions

TIMES = (0.05, 0.1, 0.2, 0.35, 0.5, 0.8, 1.0)


def distances(model: Model, n: int, scales: Sequence[float], times: Sequence[float]) -> Iterator[list[float]]:
    """Rows of a time, 0 for the test images themselves, and the FID at each scale.

    Args:
        model: conditional; it is drawn from by its own sampler.
        n: images of each FID.
        scales: of guidance.
        times: rising, in (0, 1].
    """
    judge = Judge(model)
    images, labels = judge.data.test.select(torch.arange(n))
    start = model.image_model.from_images(images)
    yield [0.0, *[judge.fid(images, labels)] * len(scales)]
    for time in times:
        given = None if time == 1 else Conditions(start=start, strength=time)
        yield [time, *(judge.drawn(scale, labels, given) for scale in scales)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a run")
    parser.add_argument("--n", type=int, default=2500, help="images of each FID")
    parser.add_argument("--scales", type=float, nargs="+", help="of guidance; 1 and the run's own where none is given")
    parser.add_argument("--times", type=float, nargs="+", default=TIMES)
    options = parser.parse_args()
    model = diffusion.load(options.run)
    own = model.image_model.guidance
    if not isinstance(own, ClassifierFree):
        raise SystemExit(f"{options.run}: this model was trained without labels.")
    if not options.scales and not isinstance(own.scale, float | int):
        raise SystemExit(f"{options.run} has a scale for each class: give --scales.")
    if wrong := [time for time in options.times if not 0 < time <= 1]:
        raise SystemExit(f"--times {wrong[0]:g} must be above 0 and at most 1.")
    if not 2 <= options.n <= 10_000:
        raise SystemExit(f"--n {options.n} must be from 2 to the 10,000 test images.")
    scales = options.scales or [1.0, own.scale]
    rows = distances(model, options.n, scales, sorted(options.times))
    heads = ["noised to t", *(f"FID, scale {scale:g}" for scale in scales)]
    print(markdown_table(heads, [[f"{t:g}", *(f"{fid:.3f}" for fid in fids)] for t, *fids in rows]))


if __name__ == "__main__":
    main()

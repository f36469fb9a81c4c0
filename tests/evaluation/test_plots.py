"""Curves of a sweep."""

import torch

from diffusion.evaluation import plots


def job(sampler, steps, guidance, fid, n=1000, how=None, **more):
    real = {"n": n, "fid": 0.1, "recall": 0.8, "inception_score": 8.0, "accuracy": 0.92}
    settings = {
        "checkpoint": "run",
        "sampler": sampler,
        "steps": steps,
        "evaluations": steps * (1 if guidance == 1 else 2),
        "guidance": guidance,
        "seed": 0,
        "weights": "averaged weights",
        **(how or {}),
    }
    protocol = {"scorer": "s", "reference": "r"}
    scores = {"fid": fid, "recall": 0.5, "inception_score": 7.0, "accuracy": 0.9, "n": n, "protocol": protocol}
    return {"status": "finished", "settings": settings, "real": real, **scores, **more}


def test_neighbours_stand_under_images_of_any_shape():
    """Two of 6×10 pixels in a row, with lines of one pixel between them: rows of 7, columns of 11."""
    images = torch.zeros(2, 3, 6, 10, dtype=torch.uint8)
    axes = plots.neighbours([("title", images, images, [0.5, 0.25])]).axes[0]
    assert list(axes.get_yticks()) == [3.5, 10.5] and list(axes.get_xticks()) == [5.5, 16.5]


def test_curves_against_evaluations_and_guidance():
    jobs = [
        job(sampler, steps, scale, fid=10 / steps + scale)
        for sampler in ("DDIM, eta 0", "DDIM, eta 1")
        for steps in (20, 5)
        for scale in (1, 2)
    ]
    figure = plots.sweep_curves([*jobs, {"status": "failed"}])
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["FID", "recall", "FID", "Inception Score", "accuracy", "recall"]
    by_evaluations, by_guidance = ({line.get_label(): line for line in figure.axes[i].get_lines()} for i in (0, 3))
    line = by_evaluations["DDIM, eta 0, guidance 2"]
    assert list(line.get_xdata()) == [10, 40] and list(line.get_ydata()) == [4, 2.5]  # sorted, counted with guidance
    assert list(by_guidance["DDIM, eta 1, 5 steps"].get_ydata()) == [3, 4]
    assert "real test images, n = 1000" in by_guidance


def test_the_counts_of_evaluations_are_whole_numbers_with_room():
    figure = plots.sweep_curves([job("DDIM", steps, 1.0, 1.0) for steps in (4, 7, 8, 20)])
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["4", "7", "20"]


def test_curves_of_runs_that_do_not_compare_are_marked():
    figure = plots.sweep_curves([job("DDIM", 5, 1, 1.0), job("DDIM", 10, 1, 1.0, n=500)])
    assert "not comparable" in figure.axes[0].get_title()


def test_runs_of_different_models_are_different_lines():
    jobs = [job("DDIM", steps, 1, 1.0, how={"checkpoint": name}) for name in "ab" for steps in (5, 10)]
    drawn = {line.get_label(): list(line.get_xdata()) for line in plots.sweep_curves(jobs).axes[0].get_lines()}
    assert drawn["DDIM, checkpoint a, guidance 1"] == drawn["DDIM, checkpoint b, guidance 1"] == [5, 10]


def test_a_sweep_of_guidance_alone_has_no_panels_of_evaluations():
    figure = plots.sweep_curves([job("DDIM", 5, scale, 1.0) for scale in (1, 2)])
    assert {axes.get_xlabel() for axes in figure.axes if axes.get_title()} == {"guidance scale"}


def test_no_curves_where_nothing_was_swept():
    assert plots.sweep_curves([job("DDIM", 5, 1, 1.0)] * 2) is None
    assert plots.sweep_curves([{"status": "failed"}]) is None

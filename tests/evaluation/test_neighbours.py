"""Nearest neighbours in pixels, and what their distances say."""

import numpy as np
import torch

from diffusion.evaluation.neighbours import PixelNeighbours, memorisation

CPU = torch.device("cpu")


def test_nearest_neighbours_equal_scikit_learns(mini):
    from sklearn.neighbors import NearestNeighbors

    train, queries = mini.train.subset(torch.arange(2000)), mini.test.images[:100]
    distances, indices = PixelNeighbours(train, CPU).nearest(queries)
    flat = train.images.flatten(1).numpy() / 255
    oracle = NearestNeighbors(n_neighbors=2, algorithm="brute").fit(flat)
    expected, where = oracle.kneighbors(queries.flatten(1).numpy() / 255)
    assert np.allclose(distances, expected, rtol=1e-6) and np.array_equal(indices, where)


def test_chunks_do_not_matter_and_copies_are_at_zero(mini, monkeypatch):
    train = mini.train.subset(torch.arange(500))
    whole = PixelNeighbours(train, CPU).nearest(train.images[:20])
    monkeypatch.setattr("diffusion.evaluation.neighbours.MOST", 33 * 784)  # of large images, few are held at once
    monkeypatch.setattr("diffusion.evaluation.neighbours.EXACT", 7 * 784)
    parts = PixelNeighbours(train, CPU)
    for _ in range(2):  # the second time from memory
        found = parts.nearest(train.images[:20])
        assert torch.equal(found[0], whole[0]) and torch.equal(found[1], whole[1])
    assert (found[0][:, 0] == 0).all() and found[1][:, 0].tolist() == list(range(20))


def test_what_the_distances_say():
    real = np.stack([np.arange(1.0, 101), np.arange(2.0, 102)], axis=1)
    found = memorisation(np.array([[0, 5], [1, 1.5], [60, 200], [60, 70.0]]), real)
    assert found == {"nearest_distance": 30.5, "nearer_than_real": 0.5, "lonely_neighbour": 0.5, "copies": 0.25}

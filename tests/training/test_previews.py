"""Which classes a run shows of itself."""

from itertools import pairwise
from types import SimpleNamespace

import pytest

from diffusion.training.monitor import COLUMNS, Monitor


@pytest.mark.parametrize(("number", "shown"), [(0, 0), (2, 2), (10, 10), (16, 16), (17, 16), (100, 16), (1000, 16)])
def test_a_preview_has_at_most_sixteen_classes_that_lie_evenly(number, shown):
    chosen = Monitor.shown(SimpleNamespace(model=SimpleNamespace(class_names=["x"] * number)))
    assert len(chosen) == shown <= COLUMNS and chosen == sorted(set(chosen))
    if number <= COLUMNS:
        assert chosen == list(range(number))
    else:
        assert {b - a for a, b in pairwise(chosen)} <= {number // COLUMNS, number // COLUMNS + 1}

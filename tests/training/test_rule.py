"""The rule behind auto: a table, a scaling law, and speeds between the measured ones."""

import math
from itertools import pairwise

import pytest

from diffusion.training import rule
from diffusion.training.rule import LAW, TABLE, WIDTHS, Speeds, numbers, useful, width_for, width_in_time

PARAMETERS = {width: 700 * width**2 for width in WIDTHS}  # of unet_light, about


def slowing(rate, steepness=rule.STEEPNESS):
    """Images per second that fall by a power of the width, as measured at two widths."""
    return Speeds({width: rate * (width / 32) ** -steepness for width in (24, 96)})


def test_at_its_rows_it_is_the_table_and_between_them_it_lies_between():
    for row in TABLE:
        assert numbers(row.images) == pytest.approx(row, rel=0.01)
    for below, above in pairwise(TABLE):
        found = numbers(math.sqrt(below.images * above.images))
        for value, x, y in zip(found[1:], below[1:], above[1:], strict=True):
            assert min(x, y) * 0.98 <= value <= max(x, y) * 1.02
            assert value == pytest.approx(math.sqrt(x * y), rel=0.03)  # half way of a power law
    assert numbers(1)[1:] == numbers(TABLE[0].images)[1:] and numbers(1e12)[1:] == numbers(TABLE[-1].images)[1:]


def test_longer_trainings_are_guided_less():
    scales = [numbers(10**k).scale for k in (3, 4, 4.5, 4.75, 5, 5.25, 6)]
    assert scales == sorted(scales, reverse=True)


def test_speeds_follow_a_power_of_the_width():
    speeds = slowing(500.0)
    assert speeds(24) == speeds.measured[24] and speeds(96) == speeds.measured[96]
    for width in (16, 32, 48, 256):
        assert speeds(width) == pytest.approx(500 * (width / 32) ** -rule.STEEPNESS)
    assert Speeds({32: 100.0, 64: 100.0})(45) == pytest.approx(100)


def test_the_width_is_that_of_the_least_fid_and_grows_with_time_and_speed():
    speeds = slowing(500.0)
    times = (2, 10, 30, 60, 240, 900, 3600, 86_400)
    widths = [width_in_time(PARAMETERS, speeds, seconds) for seconds in times]
    assert widths == sorted(widths) and len(set(widths)) > 4
    for seconds, width in zip(times, widths, strict=True):
        fids = {}
        for w, parameters in PARAMETERS.items():
            images = seconds * 500 * (w / 32) ** -rule.STEEPNESS
            fids[w] = LAW(images, parameters)
        assert fids[width] == min(fids.values())
        assert width_in_time(PARAMETERS, slowing(2000.0), seconds) >= width
    # Where wide networks cost nothing, the widest is best.
    assert width_in_time(PARAMETERS, Speeds({16: 9e3, 256: 9e3}), 60) == 256


def test_the_law_is_the_sum_of_its_terms():
    law = rule.Law(floor=0.1, a=2.0, alpha=2.0, gamma=1.0, b=3.0, beta=0.5, d=5.0, delta=1.0)
    assert law(2e5, 4e6) == pytest.approx(0.1 + 2 / 4 / 4 + 3 / 2 + 5 / 2)
    assert LAW(2e4, 3e6) < LAW(2e4, 3e5) and LAW(1e5, 1e6) < LAW(5e4, 1e6)


def test_of_so_many_images_the_width_is_what_was_found_by_hand():
    narrower = {16: 180_000, **PARAMETERS}
    found = [width_for(narrower, images) for images in (1, 31_000, 31_168, 76_480, 196_480, 1e9)]
    assert found == [16, 32, 32, 48, 64, max(WIDTHS)]
    few = {width: PARAMETERS[width] for width in (32, 64)}
    assert {width_for(few, 10**k) for k in range(3, 8)} == {32, 64}


def test_larger_batches_teach_less_and_the_longer_a_training_the_less_that_matters():
    assert useful(31_000, rule.BATCH) == pytest.approx(31_000)
    shares = [useful(31_000, batch) / 31_000 for batch in (64, 128, 256, 1024)]
    assert shares == sorted(shares, reverse=True)
    assert useful(1e7, 256) / 1e7 > useful(1e5, 256) / 1e5
    # At the critical size half of the images of a very small batch's training are worth something.
    tiny = rule.CRITICAL / (rule.CRITICAL + rule.BATCH)
    assert useful(31_000, round(rule.CRITICAL)) * tiny == pytest.approx(31_000 / 2)

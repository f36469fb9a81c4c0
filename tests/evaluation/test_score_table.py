"""Scores beside a model are shown where they are as they were written, and left out where they are not."""

import pytest

from diffusion.evaluation.score_table import NUMBERS, ScoreTable

WHOLE = {**dict.fromkeys(NUMBERS, 0.5), "n": 1000}


def metrics(real=None, **other):
    return {"step": 3, **WHOLE, "protocol": {}, "real": {**WHOLE, **(real or {})}, **other}


def test_whole_scores():
    table = ScoreTable.of_run(metrics(accuracy=None, real={"kid": None}), 3)
    assert table is not None and table["fid"] == 0.5 and "1,000" in repr(table)
    assert ScoreTable.of_run(metrics(), 4) is None and ScoreTable.of_run(None, 3) is None


@pytest.mark.parametrize("wrong", [10**400, float("nan"), float("inf"), "a", True, [], {}])
@pytest.mark.parametrize("key", ["fid", "coverage", "n"])
def test_what_is_no_number_is_left_out(key, wrong, caplog):
    for found in (metrics(**{key: wrong}), metrics(real={key: wrong})):
        caplog.clear()
        assert ScoreTable.of_run(found, 3) is None
        assert "is not as it was written: its scores are left out" in caplog.text


@pytest.mark.parametrize("other", [{"real": []}, {"scale": {"noise": 3}}, {"seeds": 7}, {"notes": 3}, {"n": 2.5}])
def test_another_form_is_left_out(other):
    assert ScoreTable.of_run(metrics() | other, 3) is None

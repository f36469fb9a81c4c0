"""Profiles of a few steps."""

import json
import logging

import pytest
from plain import make


def test_a_profile_is_a_trace_and_a_table(tmp_path):
    trainer = make(tmp_path, steps=10, profile=2)
    trainer.fit()
    trainer.tracker.close()
    names = [event.get("name", "") for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]]
    assert sum(name.startswith("ProfilerStep#") for name in names) == 2  # one mark for each step
    assert "convolution" in (tmp_path / "profile.txt").read_text()


@pytest.mark.parametrize("steps", [3, 6])
def test_a_run_too_short_for_a_profile_says_so(tmp_path, caplog, steps):
    trainer = make(tmp_path, steps=steps, profile=2)
    with caplog.at_level(logging.WARNING, "diffusion"):
        trainer.fit()
    trainer.tracker.close()
    assert f"training.profile=2: a run of {steps} steps is too short" in caplog.text
    assert "The profile of" not in caplog.text and not (tmp_path / "trace.json").exists()

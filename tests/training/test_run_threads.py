"""A run takes as many CPU threads as are fastest where it begins, and keeps them."""

import pytest
import torch
from plain import make, train

from diffusion.system.device import Device
from diffusion.training import threads


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def one_is_fastest(monkeypatch):
    monkeypatch.setattr(threads, "WORTH", 0.0)
    monkeypatch.setattr(threads, "fastest", lambda work, set_threads, most, seconds: 1)


def test_a_run_keeps_the_threads_it_chose(tmp_path, one_is_fastest, monkeypatch):
    first = train(tmp_path / "run", steps=4)
    assert (first["threads"], torch.get_num_threads()) == (1, 1)
    torch.set_num_threads(2)
    monkeypatch.setattr(threads, "fastest", lambda *rest: 2)  # the neighbour is gone
    again = train(tmp_path / "run", resume=first, steps=8)
    assert (again["threads"], torch.get_num_threads()) == (1, 1)


def test_what_is_named_is_taken(tmp_path, one_is_fastest, monkeypatch):
    assert train(tmp_path / "a", device=Device("cpu", precision="fp32", threads=2))["threads"] is None
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert train(tmp_path / "b")["threads"] is None
    assert torch.get_num_threads() == 2


def test_a_short_run_measures_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "fastest", None)
    assert train(tmp_path / "run", steps=4)["threads"] == 2


def test_measuring_changes_neither_weights_nor_random_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "WORTH", 0.0)
    trainer = make(tmp_path / "run")
    trainer.tracker.close()
    before = [parameter.clone() for parameter in trainer.parts.parameters]
    torch.manual_seed(0)
    drawn = torch.random.get_rng_state()
    assert threads.choose(trainer.parts, 8, 10**6) in (1, 2)
    assert torch.equal(drawn, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.parts.parameters, strict=True))
    assert all(parameter.grad is None for parameter in trainer.parts.parameters)


@pytest.mark.parametrize("stored", [None, 0, 5, -1])
def test_a_number_that_this_machine_has_not_is_left_alone(tmp_path, stored):
    trainer = make(tmp_path / "run")
    trainer.tracker.close()
    assert threads.restore(trainer.parts, stored) is None
    assert torch.get_num_threads() == 2


def test_the_next_run_of_a_process_chooses_from_all_threads(tmp_path, one_is_fastest, monkeypatch):
    """A sweep runs its jobs one after the other in one process."""
    assert train(tmp_path / "first")["threads"] == 1
    monkeypatch.setattr(threads, "fastest", lambda work, set_threads, most, seconds: most)  # the neighbour is gone
    second = train(tmp_path / "second")
    assert (second["threads"], torch.get_num_threads()) == (2, 2)
    monkeypatch.setattr(threads, "fastest", lambda *rest: 1)
    train(tmp_path / "third")
    train(tmp_path / "second", resume=second, steps=8)
    assert torch.get_num_threads() == 2

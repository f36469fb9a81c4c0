"""Parts of a network that are not trained."""

import logging

import plain
import pytest
import torch
from conftest import same

from diffusion.ema import PowerEMA
from diffusion.optimizer import Muon
from diffusion.training.freezing import freeze

FROZEN = ["down.*", "*.norm_1.*", "conditioning.label.weight"]


def frozen(name):
    return name.startswith("down.") or ".norm_1." in name or name == "conditioning.label.weight"


def make(folder, monkeypatch, patterns=FROZEN, **settings):
    """The trainer of a run whose network is frozen before its optimizer is made."""
    whole = plain.network

    def half(**shape):
        network = whole(**shape)
        freeze(network, patterns)
        return network

    def of_the_rest(parameters):
        return settings.get("optimizer", Muon)([p for p in parameters if p.requires_grad])

    monkeypatch.setattr(plain, "network", half)
    return plain.make(folder, **{**settings, "optimizer": of_the_rest})


@pytest.mark.parametrize(
    ("optimizer", "patterns"), [(Muon, FROZEN), (torch.optim.AdamW, FROZEN), (Muon, ["*.weight"]), (Muon, ["*.bias"])]
)
def test_what_is_frozen_stays_bit_by_bit_and_the_rest_moves(tmp_path, monkeypatch, optimizer, patterns):
    trainer = make(tmp_path, monkeypatch, patterns, optimizer=optimizer, ema=PowerEMA)
    parts = trainer.parts
    before = {name: value.clone() for name, value in parts.network.state_dict().items()}
    still = {name for name, p in parts.network.named_parameters() if not p.requires_grad}
    if patterns == FROZEN:
        assert still == {name for name in before if frozen(name)} and 0 < len(still) < len(before)
    trainer.fit()
    trainer.tracker.close()
    for found in (parts.network.state_dict(), parts.ema.network.state_dict()):
        assert {name for name in before if torch.equal(found[name], before[name])} >= still
    assert len(parts.optimizer.state) == len(before) - len(still)
    moved = {name for name, value in parts.network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and not moved & still


def test_a_frozen_run_that_is_killed_ends_with_the_same_bits(tmp_path, monkeypatch):
    whole = make(tmp_path / "whole", monkeypatch)
    whole.fit()
    whole.tracker.close()
    monkeypatch.undo()
    first = make(tmp_path / "first", monkeypatch, steps=4, checkpoint_every=2)
    first.progress.total_steps = 4
    step = first.train_step

    def counted(batch):
        if first.progress.step == 2:
            raise ProcessLookupError("killed")
        step(batch)

    first.train_step = counted
    with pytest.raises(ProcessLookupError):
        first.fit()
    first.tracker.close()
    monkeypatch.undo()
    state = plain.checkpoint.load(tmp_path / "first" / "last.pt")
    assert state["step"] == 2
    second = make(tmp_path / "first", monkeypatch, resume=state)
    second.fit()
    second.tracker.close()
    mine, theirs = (trainer.state.state_dict() for trainer in (second, whole))
    for key in ("network", "ema", "optimizer"):
        assert same(mine[key], theirs[key]), key


def test_what_names_nothing_is_told_with_what_is_near():
    network = plain.network()
    for pattern, said in (
        ("down", r"near are down\.\*"),
        ("dwn.*", r"near are down\.\*"),
        ("q", r"conditioning\.\*, fi"),
    ):
        with pytest.raises(ValueError, match=rf"^freeze={pattern.replace('*', '.*')} names no parameter.*{said}"):
            freeze(network, [pattern])
    with pytest.raises(ValueError, match="leaves nothing to train"):
        freeze(network, ["*.weight", "*.bias"])


def test_it_says_how_much_is_trained(caplog):
    network = plain.network()
    still = sum(p.numel() for name, p in network.named_parameters() if frozen(name))
    total = sum(p.numel() for p in network.parameters())
    with caplog.at_level(logging.INFO, "diffusion"):
        freeze(network, FROZEN)
        freeze(plain.network(), [])
    (record,) = caplog.records
    assert f"{still:,} of {total:,} weights; the other {total - still:,} are trained" in record.getMessage()

"""The trainer: exact resuming, exact accumulation, signals, and what is noticed."""

import math
import os
import signal
from functools import partial

import numpy as np
import pytest
import torch
from conftest import curve, same
from plain import make, train

from diffusion.data.images import encode
from diffusion.ema import PowerEMA
from diffusion.loss.hybrid import Hybrid
from diffusion.optimizer import Muon
from diffusion.records import checkpoint
from diffusion.system.device import Device
from diffusion.system.errors import UserError
from diffusion.system.randomness import TRAINING, stream
from diffusion.timesteps import LossAware
from diffusion.training.interruption import Stopped
from diffusion.training.plan import Plan


@pytest.mark.parametrize(
    "killed_before", [1, 7, 11]
)  # checkpoints at 4, 8, 12; logs at 3, 6, 9, 12; 6 batches an epoch
@pytest.mark.parametrize("accumulate", [1, 4])
def test_resuming_is_exact(tmp_path, killed_before, accumulate):
    settings = {"steps": 13, "accumulate": accumulate, "images": 1000}
    whole = train(tmp_path / "whole", **settings)
    cut = train(tmp_path / "cut", stop_at=killed_before, **settings)
    assert cut["step"] == killed_before // 4 * 4
    resumed = train(tmp_path / "cut", resume=cut, **settings)
    for key in ("step", "network", "ema", "optimizer", "sums"):
        assert same(whole[key], resumed[key]), key
    assert curve(tmp_path / "whole") == curve(tmp_path / "cut")


def test_resuming_is_exact_with_everything_that_has_a_memory(tmp_path):
    """Loss-aware times remember losses, power-function averages their widths; the hybrid loss has a second head."""

    def once_more(folder, **given):
        return train(folder, timesteps=LossAware(bins=4, memory=2), ema=PowerEMA, loss=Hybrid(), steps=10, **given)

    whole = once_more(tmp_path / "whole")
    cut = once_more(tmp_path / "cut", stop_at=7)
    assert cut["step"] == 4
    resumed = once_more(tmp_path / "cut", resume=cut)
    for key in ("step", "network", "ema", "optimizer", "sums", "timesteps"):
        assert same(whole[key], resumed[key]), key
    assert curve(tmp_path / "whole") == curve(tmp_path / "cut")
    assert whole["timesteps"] and not same(whole["timesteps"], cut["timesteps"])


def test_resuming_is_exact_with_muon(tmp_path):
    settings = {"steps": 10, "optimizer": Muon}
    whole = train(tmp_path / "whole", **settings)
    cut = train(tmp_path / "cut", stop_at=7, **settings)
    resumed = train(tmp_path / "cut", resume=cut, **settings)
    assert cut["step"] == 4 and all(same(whole[key], resumed[key]) for key in ("step", "network", "ema", "optimizer"))


def test_resuming_in_another_memory_layout_keeps_the_optimizer(tmp_path):
    """A fused optimizer walks weights and moments side by side in memory, so their layouts must agree."""
    settings = {"steps": 8, "optimizer": partial(torch.optim.AdamW, lr=1e-3)}
    cut = train(tmp_path / "cut", stop_at=5, **settings)
    contiguous = Device("cpu", precision="fp32", channels_last=False)
    other = make(tmp_path / "other", resume=cut, device=contiguous, **settings)
    other.tracker.close()
    saved = list(cut["optimizer"]["state"].values())
    assert any(moments["exp_avg"].stride() != moments["exp_avg"].contiguous().stride() for moments in saved)
    for parameter, moments in zip(other.parts.parameters, saved, strict=True):
        mine = other.parts.optimizer.state[parameter]
        for name in ("exp_avg", "exp_avg_sq"):
            assert mine[name].stride() == parameter.stride() and torch.equal(mine[name], moments[name])


def test_every_step_sees_other_noise_and_the_whole_batch_at_once(tmp_path):
    trainer = make(tmp_path, steps=3, batch_size=4, accumulate=2)
    seen, loss = [], trainer.parts.loss

    def watched(denoiser, x, t, noise, labels, progress=0.0):
        seen.append((t, noise, labels))
        return loss(denoiser, x, t, noise, labels, progress)

    trainer.parts.loss = watched
    trainer.fit()
    trainer.tracker.close()
    expected = stream(trainer.seed, TRAINING, 0)
    u = torch.rand(2, 4, generator=expected)
    noise = torch.randn(4, 1, 28, 28, generator=expected)
    micro = seen[:2]
    assert torch.equal(torch.cat([part[1] for part in micro]), noise)
    assert torch.equal(torch.cat([part[0] for part in micro]), trainer.parts.timesteps(u[0]))
    everything = torch.cat([part[1] for part in seen[:6]]).flatten(1)
    assert len(everything.unique(dim=0)) == 12


def test_the_gradient_of_a_batch_is_that_of_its_micro_batches(tmp_path):
    gradients = []
    for accumulate in (1, 2, 8):
        trainer = make(tmp_path / str(accumulate), accumulate=accumulate, clip_norm=0)
        for parameter in trainer.parts.parameters:  # the output starts at zero, and with it most gradients
            parameter.data.normal_(std=0.1, generator=torch.Generator().manual_seed(parameter.numel()))
        parameters = trainer.parts.parameters
        trainer.parts.optimizer.step = lambda ps=parameters: gradients.append([p.grad.clone() for p in ps])
        images, labels = trainer.parts.data.train.select(torch.arange(8))
        trainer.train_step((images, labels))
        trainer.tracker.close()
    for other in gradients[1:]:
        assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(gradients[0], other, strict=True))


def test_the_average_is_updated_once_per_optimizer_step(tmp_path):
    state = train(tmp_path, steps=5, accumulate=4)
    assert state["ema"]["updates"] == 5


def test_previews_and_scores_do_not_touch_the_training(tmp_path, scorer):
    plain = train(tmp_path / "plain", steps=6)
    random = torch.random.get_rng_state(), np.random.get_state()[1].tolist()
    watched = train(
        tmp_path / "watched",
        steps=6,
        preview_every=2,
        evaluate_every=3,
        scorer=scorer,
    )
    assert all(same(plain[key], watched[key]) for key in ("network", "ema", "optimizer", "sums"))
    assert curve(tmp_path / "plain") == curve(tmp_path / "watched")
    assert torch.equal(random[0], torch.random.get_rng_state()) and random[1] == np.random.get_state()[1].tolist()
    assert watched["best"] is not None and (tmp_path / "watched" / "best.pt").exists()
    fid = curve(tmp_path / "watched", "score/fid")
    assert list(fid) == [3, 6] and math.isclose(watched["best"], min(fid.values()), rel_tol=1e-5)


def test_what_tensorboard_gets(tmp_path, scorer):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path, steps=6, preview_every=3, scorer=scorer)
    events = EventAccumulator(str(tmp_path)).Reload()
    tags = events.Tags()
    wanted = {"train/loss", "train/learning_rate", "train/grad_norm", "train/images_per_second", "held_out/loss"}
    assert wanted | {"score/fid", "score/accuracy", "score/inception_score"} <= set(tags["scalars"])
    assert any(tag.startswith("noise_level/") for tag in tags["scalars"])
    assert [event.step for event in events.Images("samples/ema")] == [3, 6]


def test_a_loss_that_is_not_finite_stops_the_run_and_is_never_saved(tmp_path):
    trainer = make(tmp_path, steps=12)
    step = trainer.train_step

    def poisoned(batch):
        if trainer.progress.step == 5:
            trainer.parts.parameters[0].data[0] = math.nan
        return step(batch)

    trainer.train_step = poisoned
    with pytest.raises(
        UserError, match=r"noticed at step 6.*last good checkpoint is .*last\.pt, of step 4.*optimizer\.lr"
    ):
        trainer.fit()
    trainer.tracker.close()
    state = checkpoint.load(tmp_path / "last.pt")
    assert state["step"] == 4
    assert all(value.isfinite().all() for value in state["network"].values())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, number):
    trainer = make(tmp_path, steps=50)
    step = trainer.train_step

    def interrupted(batch):
        if trainer.progress.step == 6:
            os.kill(os.getpid(), number)
        return step(batch)

    trainer.train_step = interrupted
    before = signal.getsignal(number)
    with pytest.raises(Stopped, match=r"step 7 of 50, saved; continue with: python train\.py resume=") as stopped:
        trainer.fit()
    trainer.tracker.close()
    assert stopped.value.exit_code == 128 + number
    assert checkpoint.load(tmp_path / "last.pt")["step"] == 7
    assert signal.getsignal(number) is before


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path, monkeypatch):
    state = train(tmp_path, steps=2)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(
        UserError, match=r"could not be written, with \d+ MiB free.*No space left.*previous one is untouched"
    ):
        checkpoint.save(tmp_path / "last.pt", state)
    monkeypatch.undo()
    assert checkpoint.load(tmp_path / "last.pt")["step"] == 2
    assert not list(tmp_path.glob(".*partial"))


def test_training_learns(tmp_path):
    """The held-out loss of a short real run ends below 3/4 of predicting nothing, ᾱ + (1 − ᾱ) E|x|²."""
    trainer = make(tmp_path, steps=120, batch_size=16, optimizer=partial(Muon, lr=3e-3))
    trainer.fit()
    x_0 = encode(trainer.parts.data.test.select(torch.arange(trainer.monitor.held_out))[0])
    alpha, sigma = trainer.parts.denoiser.schedule((torch.arange(1000) + 0.5) / 1000)
    nothing = float((alpha**2).mean() + (sigma**2).mean() * x_0.square().mean())
    assert trainer.monitor.held_out_loss() < 0.75 * nothing
    trainer.tracker.close()


def test_length_in_images_epochs_or_steps():
    assert Plan(images=1000, batch_size=32).total_steps(60_000) == 32  # 31.25 batches, rounded up
    assert Plan(images=1000, epochs=2, batch_size=100).total_steps(60_000) == 1200
    assert Plan(images=1000, steps=7, batch_size=100).total_steps(60_000) == 7
    with pytest.raises(ValueError, match="both set the length"):
        Plan(epochs=2, steps=7).total_steps(60_000)
    with pytest.raises(ValueError, match="steps=0"):
        Plan(images=0).total_steps(60_000)


def test_the_learning_rate_rises_and_falls():
    rates = [Plan(warmup=0.1).rate_factor(step, 100) for step in range(100)]
    assert all(0 < a < b <= 1 for a, b in zip(rates[:9], rates[1:10], strict=True))
    assert rates[10] == 1 and all(a > b for a, b in zip(rates[10:], rates[11:], strict=False)) and rates[-1] < 0.01
    assert [Plan(warmup=0, decay="constant").rate_factor(step, 10) for step in range(10)] == [1.0] * 10
    assert math.isclose(Plan(warmup=0, decay="linear").rate_factor(5, 10), 0.5)

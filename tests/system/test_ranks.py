"""Several processes, as one of them sees them: its number, its share, what it is refused."""

import pytest
import torch
from conftest import same

from diffusion.system import ranks
from diffusion.system.errors import UserError
from diffusion.training.plan import Plan


def test_one_process_is_the_usual_case(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    tensor = torch.arange(3)
    assert (ranks.rank(), ranks.size(), ranks.first(), ranks.share(5)) == (0, 1, True, range(5))
    assert ranks.shared("x") == "x" and ranks.largest(3, 4) == [3, 4] and ranks.by_first(lambda: 7) == 7
    assert same(ranks.total(tensor), tensor) and same(ranks.gather(tensor, 3), tensor)
    assert ranks.arrange_arguments(["-m", "a=1"]) == ["-m", "a=1"]


def test_shares_are_disjoint_and_whole(monkeypatch):
    for size in (2, 3, 8):
        monkeypatch.setenv("WORLD_SIZE", str(size))
        for n in (size, 10, 64, 101):
            shares = []
            for rank in range(size):
                monkeypatch.setenv("RANK", str(rank))
                shares += ranks.share(n)
            assert shares == list(range(n)) or n < size
    monkeypatch.setenv("RANK", "1")
    assert ranks.arrange_arguments(["seed=1"])[:2] == ["seed=1", "hydra.run.dir=."]
    with pytest.raises(UserError, match=r"A sweep \(-m\) cannot be started by torchrun.*leave out torchrun"):
        ranks.arrange_arguments(["-m", "seed=1,2"])
    for words in (["--m"], ["--multirun"], ["hydra.mode=MULTIRUN"], ["hydra.mode=RunMode.multirun"]):
        with pytest.raises(UserError, match=r"A sweep \(-m\)"):
            ranks.arrange_arguments(["seed=1,2", *words])
    with pytest.raises(
        ValueError, match="accumulate=1 times the 8 processes must be at least 1 and divide batch_size=12"
    ):
        Plan(batch_size=12, accumulate=1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    with pytest.raises(ValueError, match="8 processes need as many GPUs, and 4 can be seen here"):
        ranks.gpu(4)


def test_the_loss_of_another_process_is_told_from_a_defect(monkeypatch):
    said = "[../third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:2193"
    assert not ranks.lost(RuntimeError(said))  # of one process
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert ranks.lost(RuntimeError(said)) and not ranks.lost(RuntimeError("a defect")) and not ranks.lost(None)
    assert not ranks.lost(OSError(32, "Broken pipe"))


def test_what_the_first_process_does_alone_is_refused_in_all(monkeypatch):
    def full():
        raise OSError(28, "No space left on device")

    assert ranks.first_alone(lambda: 7) == 7
    with pytest.raises(OSError, match="No space"):
        ranks.first_alone(full)
    with pytest.raises(OSError, match="No space"), ranks.together("Scores"):
        full()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    told = []
    monkeypatch.setattr(ranks, "shared", lambda value: told.append(value) or value)
    assert ranks.first_alone(lambda: 7) == 7
    with pytest.raises(OSError, match="No space"):
        ranks.first_alone(full)
    assert told[0] == (7, None) and told[1][0] is None and told[1][1].errno == 28  # the others learn of it
    where_they_would_wait = pytest.raises(
        UserError, match=r"Scores: \[Errno 28\] No space left.*; the 2 processes .* end"
    )
    with where_they_would_wait, ranks.together("Scores"):
        full()

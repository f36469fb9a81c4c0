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

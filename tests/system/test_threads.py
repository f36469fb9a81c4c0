"""How many threads are tried and taken, by times that are known."""

import os
import subprocess
import sys
import time

import pytest

from diffusion.system.threads import candidates, fastest


@pytest.mark.parametrize(("most", "tried"), [(1, [1]), (2, [2, 1]), (4, [4, 3, 2, 1]), (16, [16, 15, 8, 1])])
def test_all_but_one_half_and_one_are_tried(most, tried):
    assert candidates(most) == tried


@pytest.mark.parametrize(
    ("milliseconds", "taken"),
    [
        ({4: 2, 3: 3, 2: 4, 1: 8}, 4),
        ({4: 12, 3: 3, 2: 5, 1: 9}, 3),  # a neighbour on one core
        ({4: 40, 3: 30, 2: 20, 1: 8}, 1),  # on all
        ({4: 10.2, 3: 10, 2: 20, 1: 40}, 4),  # not clearly faster
    ],
)
def test_the_fastest_number_of_threads_is_taken(milliseconds, taken, monkeypatch):
    now, threads = [0.0], [0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def work():
        now[0] += milliseconds[threads[0]] / 1000

    assert fastest(work, lambda count: threads.__setitem__(0, count), 4, 1.0) == taken


def test_one_slow_moment_decides_nothing(monkeypatch):
    now, threads, calls = [0.0], [0], [0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def work():
        calls[0] += 1
        now[0] += (0.01 if threads[0] == 2 else 0.016) + (1.0 if calls[0] == 5 else 0)

    assert fastest(work, lambda count: threads.__setitem__(0, count), 2, 9.0) == 2


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_scripts_let_waiting_threads_sleep_unless_told_otherwise(given, spins):
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    env = {name: value for name, value in os.environ.items() if name not in names} | given
    code = (
        "import os, sys; from diffusion.config.cli import launch; launch(lambda: print("
        "os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.split() == [str(spins), "False"]

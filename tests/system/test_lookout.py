"""One of several processes that fails or is stopped while the others wait for it: none waits for long."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import nullcontext

import pytest

from diffusion.system import lookout
from diffusion.system.lookout import Lookout

CODE = """
import sys, time
from diffusion.system import ranks
ranks.join()
print("met", flush=True)
what = sys.argv[1]
if what == "stopped":
    ranks.saving(True)
    import signal
    signal.signal(signal.SIGINT, lambda number, frame: None)  # as a run that finishes its step
try:
    if not ranks.first():
        if what == "stopped":
            time.sleep(60)
        time.sleep(0.5)
        raise ValueError("a defect")
    ranks.largest(1)
    ranks.end(0)
except Exception:
    ranks.let_first_speak()
    print("told", flush=True)
    ranks.end(1)
"""


def start(what):
    """Two processes, without torchrun, which would end the others; the first waits for the second."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    place |= {"WORLD_SIZE": "2", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return [
        subprocess.Popen(
            [sys.executable, "-c", CODE, what],
            env={**os.environ, **place, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("what", "code"), [("fails", 1), ("stopped", 130)])
def test_nobody_waits_for_a_process_that_is_gone(what, code):
    processes = start(what)
    try:
        for process in processes:
            assert process.stdout.readline() == "met\n"
        began = time.monotonic()
        for _ in range(2 if what == "stopped" else 0):  # while one waits in C++ and the other sleeps
            time.sleep(0.7)
            assert [process.poll() for process in processes] == [None, None]
            for process in processes:
                process.send_signal(signal.SIGINT)
                process.send_signal(signal.SIGINT)  # the same stop again, from torchrun
        texts = [process.communicate(timeout=20)[0] for process in processes]
        assert time.monotonic() - began < 10
        assert [process.returncode for process in processes] == [code, code], texts
        assert texts == ["", "told\n" if what == "fails" else ""]
    finally:
        for process in processes:
            process.kill()


class Store:
    """The part of PyTorch's store that is used."""

    def __init__(self):
        self.numbers = {}

    def add(self, key, number):
        self.numbers[key] = self.numbers.get(key, 0) + number
        return self.numbers[key]

    def check(self, keys):
        return all(key in self.numbers for key in keys)


class Left(BaseException):
    """In the place of the end of the process."""


@pytest.fixture
def left(monkeypatch):
    def leave(code):
        raise Left(code)

    monkeypatch.setattr(lookout, "leave", leave)
    monkeypatch.setattr(lookout, "LONGEST", 0)
    monkeypatch.setattr(lookout, "GRACE", 0.2)


def test_one_process_tells_what_went_wrong_and_the_others_end_silently(left):
    store = Store()
    one, two, three = (Lookout(store, number == 0) for number in range(3))
    two.claim()  # the first has not spoken for a while
    two.claim()  # once more: nothing new
    for other in (one, three):
        with pytest.raises(Left, match="1"):
            other.claim()
        assert not other.told(other.failed)  # not before the words are said
    two.tell()
    with pytest.raises(Left, match="1"):
        one.run()


def test_a_store_that_is_gone_ends_nobody(left):
    class Gone(Store):
        def check(self, keys):
            raise RuntimeError("Connection reset by peer")

    one = Lookout(Gone(), True)
    assert not one.told(one.failed) and one.over
    one.claim()
    one.tell()


@pytest.mark.parametrize(
    ("moments", "leaves"), [([0, 0.1], False), ([0, 1], True), ([0, 0.1, 0.2], True), ([0, 0.1, 5], True)]
)
def test_a_second_stop_is_told_from_the_echo_of_the_first(left, moments, leaves, monkeypatch):
    one, now = Lookout(Store(), True), [0.0]
    monkeypatch.setattr(lookout.time, "monotonic", lambda: now[0])
    one.signalled(signal.SIGCHLD)  # the end of a process that reads images is none
    for moment in moments[:-1]:
        now[0] = 100 + moment
        one.signalled(signal.SIGINT)
    now[0] = 100 + moments[-1]
    with pytest.raises(Left, match="143") if leaves else nullcontext():
        one.signalled(signal.SIGTERM)


def test_a_process_without_torchrun_is_not_mistaken_for_one_that_lost_it(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert Lookout(None, True).parent is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert Lookout(None, True).parent == os.getppid()

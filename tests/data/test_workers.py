"""Processes that read images: without shared memory, and after they were killed, the batches are the same."""

import os
import signal
import threading
from itertools import islice

import psutil
import pytest
import torch
from PIL import Image

from diffusion.data import workers
from diffusion.data.images import ImageFiles, batches
from diffusion.system.errors import UserError


@pytest.fixture
def split(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(10)]
    for i, path in enumerate(paths):
        Image.new("L", (4, 4), 20 * i).save(path)
    return ImageFiles(paths, torch.arange(10), 4, 1)


def stream(split, count):
    return batches(split, 3, 0, 2, torch.device("cpu"), count)


def grey(found):
    """The images as their labels, which say the same: image i has the value 20 i."""
    found = list(found)
    assert all(torch.equal(images[:, 0, 0, 0], 20 * labels.to(torch.uint8)) for images, labels in found)
    return [labels.tolist() for _, labels in found]


@pytest.mark.parametrize("free", [0, 10**12])
def test_with_and_without_shared_memory(split, monkeypatch, free):
    monkeypatch.setattr(workers, "shared_memory", lambda: free)
    assert grey(islice(stream(split, 2), 8)) == grey(islice(stream(split, 0), 8))


def test_processes_that_are_killed(split, caplog):
    reader = stream(split, 2)
    found = [next(reader)]
    before = signal.getsignal(signal.SIGCHLD)
    for child in psutil.Process().children():
        if child.ppid() == os.getpid():
            child.send_signal(signal.SIGKILL)
    found += islice(reader, 7)
    assert signal.getsignal(signal.SIGCHLD) is before  # PyTorch's would raise an error wherever training is
    assert grey(found) == grey(islice(stream(split, 0), 8))
    assert "this one reads on alone. training.workers=1 asks for fewer" in caplog.text


def test_a_process_that_is_killed_with_the_lock_in_its_hand(split, monkeypatch):
    """PyTorch's own way to end the others would wait for it for ever."""
    iterators, locks = [], []
    make, farewell = workers._by_processes, workers._Farewell
    monkeypatch.setattr(workers, "_by_processes", lambda *given: iterators.append(make(*given)) or iterators[0])
    monkeypatch.setattr(workers, "_Farewell", lambda event: locks.append(event._cond) or farewell(event))
    reader = stream(split, 2)
    found = [next(reader)]
    (iterator,), (lock,) = iterators, locks
    assert lock.acquire()
    rescue = threading.Timer(30, lock.release)  # so that a wait for it fails, and does not hang
    rescue.daemon = True
    rescue.start()
    for process in iterator._workers:
        process.kill()
    iterators.clear()
    del iterator
    assert grey([*found, *islice(reader, 7)]) == grey(islice(stream(split, 0), 8))
    assert rescue.is_alive()
    rescue.cancel()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OSError(30, "Read-only file system")])
def test_processes_that_cannot_be_started(split, monkeypatch, caplog, error):
    def refuse(*arguments):
        raise error

    monkeypatch.setattr(workers.multiprocessing, "Queue", refuse)
    assert grey(islice(stream(split, 2), 4)) == grey(islice(stream(split, 0), 4))
    assert error.strerror in caplog.text


@pytest.mark.parametrize("count", [0, 2])
def test_a_damaged_image_is_one_sentence(split, count):
    split.paths[7].write_bytes(b"no image")
    with pytest.raises(UserError) as told:
        list(islice(stream(split, count), 8))
    assert str(told.value).count("7.png") == 1 and "Traceback" not in str(told.value)

"""What a process among several looks out for beside its work: another one that failed, and a person who will not wait.

The main thread may be waiting for the others in C++, where Python answers no signal and the end of another process goes
unnoticed, for hours where that one stopped before they were to meet. So a thread of its own watches, and ends the
process where there is nothing left to wait for.

The process that fails first says why (`claim`), and tells the others as it ends (`tell`); they end without a word.
"""

import os
import select
import signal
import socket
import threading
import time
from contextlib import suppress
from typing import Any, NoReturn

from diffusion.system.files import discard_partial

INTERVAL = 0.3  # seconds from one look to the next
ECHO = 0.5  # within which a second signal is the same stop: once from the terminal, once from torchrun
GRACE = 3.0  # seconds in which an interrupted process ends by itself, and the first process speaks first
LONGEST = 600.0  # seconds that a process waits for another one's last words, which may take a checkpoint


class Lookout(threading.Thread):
    """Watches from the main thread's `start` on.

    Args:
        store: of the processes, with `add` and `check`, not used by anybody else.
        first: whether this is the process whose words count most.
    """

    def __init__(self, store: Any, first: bool) -> None:
        super().__init__(name="lookout", daemon=True)
        run = f"{os.environ.get('TORCHELASTIC_RUN_ID', '')}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        self.claimed, self.failed = (f"simple-diffusion/{run}/{name}" for name in ("claimed", "failed"))
        self.store, self.first, self.mine, self.over = store, first, False, False
        self.ending = False  # another one has failed
        self.saving = False  # a signal lets the step end and saves
        self.signal: int | None = None  # that came first
        self.since, self.count = 0.0, 0
        self.parent = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        self.reader, self.writer = socket.socketpair()

    def start(self) -> None:
        """Begin to look; signals are seen where this is the main thread."""
        self.writer.setblocking(False)
        with suppress(ValueError):
            signal.set_wakeup_fd(self.writer.fileno(), warn_on_full_buffer=False)
        super().start()

    def run(self) -> None:
        """Look, until the process ends."""
        while True:
            if select.select([self.reader], [], [], INTERVAL)[0]:
                for number in self.reader.recv(64):
                    self.signalled(number)
            if self.signal is not None and not self.saving and time.monotonic() - self.since > GRACE:
                leave(128 + self.signal)
            if not self.mine and self.told(self.failed):
                self.ending = True
                select.select([self.reader], [], [], GRACE)  # torchrun names the process that ends first as the cause
                leave(1)
            if self.parent is not None and os.getppid() != self.parent:  # torchrun is gone
                if self.signal is not None:
                    leave(128 + self.signal)
                self.parent = None
                os.kill(os.getpid(), signal.SIGTERM)

    def signalled(self, number: int) -> None:
        """Count a signal; a second stop, or the third signal, ends the process at once."""
        if number not in (signal.SIGINT, signal.SIGTERM):
            return
        now, self.count = time.monotonic(), self.count + 1
        if self.signal is None:
            self.signal, self.since = number, now
        elif self.count > 2 or now - self.since > ECHO:
            leave(128 + number)

    def told(self, key: str) -> bool:
        """Whether a process has told this; nothing is told any more where the store is gone."""
        if self.over:
            return False
        try:
            return bool(self.store.check([key]))
        except Exception:  # of several kinds, all from the network
            self.over = True
            return False

    def claim(self) -> None:
        """Become the process that tells what went wrong, or, where another one is, wait for its words and end."""
        if self.mine:
            return
        until = time.monotonic() + (0 if self.first else GRACE)
        while time.monotonic() < until and not self.told(self.claimed):
            time.sleep(0.1)
        with suppress(RuntimeError):
            self.mine = self.over or self.store.add(self.claimed, 1) == 1
            if not self.mine:
                time.sleep(LONGEST)  # the thread ends this process before
                leave(1)
        self.mine = True

    def tell(self) -> None:
        """Let the others end, before this process does."""
        if self.mine and not self.over:
            with suppress(RuntimeError):
                self.store.add(self.failed, 1)
            time.sleep(2 * INTERVAL)


def leave(code: int) -> NoReturn:
    """End the process at once, from whichever thread, and leave no half-written file."""
    discard_partial()
    os._exit(code)

"""What the benchmarks share: configs, processes of their own, and the place of a table in a page of docs/."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "performance.md"


def compose(name: str, *overrides: str) -> Any:
    """The config that a script makes of these words, as a `DictConfig`; paths stay relative to the working folder."""
    import hydra

    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return hydra.compose(name, [*overrides, "output_dir=none"])


def run(script: str, *arguments: str, log: Path, threads: int | None = None, seconds: float | None = None) -> None:
    """A script of this repository in a process of its own, whose text goes to the end of a file.

    Args:
        script: its path in the repository.
        arguments: of its command line.
        log: the file.
        threads: of its CPU; None leaves it PyTorch's choice.
        seconds: after which it is ended; None waits as long as it takes.

    Raises:
        SystemExit: it failed, or took too long; the message is its last line.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        try:
            done = subprocess.run(
                [sys.executable, str(ROOT / script), *arguments],
                cwd=ROOT,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=seconds,
                env={
                    **os.environ,
                    **({} if threads is None else {"OMP_NUM_THREADS": str(threads)}),
                    "TQDM_DISABLE": "1",
                    "PYTHONUNBUFFERED": "1",
                },
            )
        except subprocess.TimeoutExpired:
            raise SystemExit(f"{script} {' '.join(arguments)} was ended after {seconds:.0f} s (see {log}).") from None
    if done.returncode:
        last = log.read_text().strip().rpartition("\n")[2]
        raise SystemExit(f"{script} {' '.join(arguments)} ended with {done.returncode} (see {log}): {last}")


def read(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text())


def middle(values: Sequence[float | None], digits: int = 0) -> str:
    """The median, with the range where there are several values."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    spread = f" ({min(known):,.{digits}f} – {max(known):,.{digits}f})" if len(known) > 1 else ""
    return f"{median(known):,.{digits}f}{spread}"


def fill(page: Path, mark: str, script: str, text: str) -> bool:
    """Put a text between `<!-- mark: made by script -->` and the next `<!-- end -->` of a page; whether it has both."""
    marks = rf"(<!-- {mark}: made by {re.escape(script)} -->\n).*?(<!-- end -->)"
    if not page.exists():
        return False
    content, places = re.subn(marks, lambda m: f"{m[1]}\n{text}\n\n{m[2]}", page.read_text(), flags=re.DOTALL)
    if places:
        page.write_text(content)
    return places > 0

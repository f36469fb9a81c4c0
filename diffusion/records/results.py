"""What a run found, as programs read it: the file metrics.json, and whether the run that wrote it came to its end."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from diffusion.system.files import replacing

NUMBERS = re.compile(r"\[\n[^\[\]{}\"]*\]")  # a list of them as `json` indents it: one a line
Scores = dict[str, Any]  # by name, as metrics.json holds them


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON so that a reader never sees half a file; a list of numbers is one line."""
    text = NUMBERS.sub(lambda found: f"[{' '.join(found[0][1:-1].split())}]", json.dumps(content, indent=2))
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_metrics(path: Path) -> Scores | None:
    """What `write_json` wrote as metrics.json; None where there is none, or it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def metrics_of_jobs(folder: Path) -> list[Scores]:
    """What the jobs of a sweep wrote, in the order of their folders' names, but what is damaged."""
    return [found for path in sorted(folder.glob("*/metrics.json")) if (found := read_metrics(path)) is not None]


def finished(folder: Path, **same: Any) -> Scores | None:
    """The metrics of a folder in which a job has come to its end that had all of `same`, else None."""
    found = read_metrics(folder / "metrics.json") or {}
    return found if all(found.get(name) == value for name, value in {"status": "finished", **same}.items()) else None


def fingerprint(content: Any) -> str:
    """A short text that is another one for other content, of what JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]

"""Where a folder of official samples has a task's."""

from pathlib import Path


def official_file(source: str, task: str) -> Path:
    """Return where a folder of official samples has a task's: as a file of its own, or as RULER's scripts write it."""
    folder = Path(source).expanduser()
    written = folder / task / "validation.jsonl"
    return written if written.is_file() else folder / f"{task}.jsonl"

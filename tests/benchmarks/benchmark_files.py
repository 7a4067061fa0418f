"""Small stand-ins for the benchmark files that tasks need, by name."""

import tempfile
from functools import cache
from pathlib import Path

from headscope.benchmarks.prose import packaged_prose


@cache
def files() -> dict[str, Path]:
    folder = Path(tempfile.mkdtemp(prefix="headscope-files-"))
    contents = {"prose": packaged_prose(), "essays": packaged_prose()}
    for name, text in contents.items():
        (folder / name).write_text(text, encoding="utf-8")
    return {name: folder / name for name in contents}

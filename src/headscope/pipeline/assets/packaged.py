"""Texts of the Python installation, for benchmarks without the internet.

A text's part of `manifest.json`: `path`, `files` (SHA-256 by name) and `sha256`. It differs between Python versions.
"""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from headscope.pipeline.store.files import hashes

# Imported by name, so that one text's code is no part of another's address.
MAKERS = {
    "pydoc_topics": ("headscope.benchmarks.prose", "packaged_prose"),
    "standard_library": ("headscope.benchmarks.longbench.local", "standard_library"),
}


def make(spec: dict[str, Any], out: Path) -> dict[str, Any]:
    """Write the text and return its part of the manifest."""
    module, function = MAKERS[spec["source"]]
    made: str | dict[str, str] = getattr(import_module(module), function)()
    text = made if isinstance(made, str) else json.dumps(made, sort_keys=True)
    (out / "content").write_text(text, encoding="utf-8")
    return {"path": "content", "source": spec["source"], **hashes(out, ["content"], out)}

"""Cells: results of single prompts, kept as small immutable files outside Snakemake's declared outputs.

An interrupted job loses at most one batch, and a new criterion computes its own rows alone. Cells are files and not a
database, because results may lie on a network file system. A file's name ends in a digest of its bytes, so a damaged
one is known; the format is part of the context, so cells of another format are never met.
"""

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from headscope.pipeline.store.files import atomic_file, digest

FORMAT = 1
CONTEXT = "context.json"
NAME = re.compile(r".+--(?P<digest>[0-9a-f]{16})\.(json|safetensors)")


class Cells:
    """Cells of one kind and context, `<results>/cells/<kind>/<digest of context>/<prompt>/<key>--<digest of bytes>`.

    Attributes:
        folder: holds one folder for each prompt.
    """

    def __init__(self, results: Path, kind: str, context: Mapping[str, Any]):
        """Open the cells; the context is all that makes a cell except its prompt and key.

        A damaged description of it is written again: who finds all cells writes none.
        """
        context = {"format": FORMAT, **context}
        self.folder = results / "cells" / kind / digest(context)
        self._description = json.dumps(context, indent=1, sort_keys=True).encode()
        file = self.folder / CONTEXT
        if file.is_file() and read_intact(file) is None:
            _put(file, self._description)

    def rows(self, prompt: str) -> dict[str, dict[str, Any]]:
        """Return all rows of a prompt by their keys."""
        rows: dict[str, dict[str, Any]] = {}
        for content in self._intact(prompt, "*.json"):
            rows.update(json.loads(content))
        return rows

    def add_rows(self, prompt: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
        """Write rows that were computed together, as one shard."""
        self._write(prompt, digest(sorted(rows)), ".json", json.dumps(rows, sort_keys=True).encode())

    def arrays(self, prompt: str, keys: Iterable[str]) -> dict[str, dict[str, NDArray[Any]]]:
        """Return the arrays of those keys that are there."""
        files = {key: next(self._intact(prompt, f"{key}--*.safetensors"), None) for key in keys}
        return {key: load(content) for key, content in files.items() if content is not None}

    def add_arrays(self, prompt: str, key: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write the arrays of one key."""
        content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        self._write(prompt, key, ".safetensors", content)

    def _intact(self, prompt: str, pattern: str) -> Iterator[bytes]:
        """Yield the contents of matching files; drop a damaged one, so that it is computed again."""
        for file in sorted((self.folder / prompt).glob(pattern)):
            content = read_intact(file)
            if content is not None:
                yield content
            else:
                print(f"headscope: warning: {file} is damaged: dropped, and computed again", file=sys.stderr)
                with suppress(OSError):
                    file.unlink()

    def _write(self, prompt: str, key: str, ending: str, content: bytes) -> None:
        """Write one file; and once, for people, the context behind the digest."""
        cell = self.folder / prompt / _named(key, ending, content)
        for file, data in {self.folder / CONTEXT: self._description, cell: content}.items():
            if not file.is_file():
                _put(file, data)


def _put(file: Path, content: bytes) -> None:
    with atomic_file(file) as path:
        path.write_bytes(content)


def _named(key: str, ending: str, content: bytes) -> str:
    return f"{key}--{hashlib.sha256(content).hexdigest()[:16]}{ending}"


def is_of_another_format(folder: Path) -> bool:
    """Return True if the cells of a context were written in a format that this version does not know."""
    content = read_intact(folder / CONTEXT)
    return content is not None and json.loads(content).get("format") != FORMAT


def read_intact(file: Path) -> bytes | None:
    """Return the bytes of a cell, or of a context's description, if they are what its name or folder says."""
    named = NAME.fullmatch(file.name)
    with suppress(OSError, ValueError, RecursionError):
        content = file.read_bytes()
        if named and hashlib.sha256(content).hexdigest().startswith(named["digest"]):
            return content
        if file.name == CONTEXT and digest(json.loads(content)) == file.parent.name:
            return content
    return None

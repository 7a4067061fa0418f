"""Cells: results of single prompts, kept as small immutable files outside Snakemake's declared outputs.

An interrupted job loses at most one batch, and a new criterion computes its own rows alone. Cells are files and not a
database, because results may lie on a network file system.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from headscope.pipeline.store.files import atomic_file, digest


class Cells:
    """Cells of one kind and context, `<results>/cells/<kind>/<digest of context>/<prompt>/<shard>`.

    Attributes:
        folder: holds one folder for each prompt.
    """

    def __init__(self, results: Path, kind: str, context: Mapping[str, Any]):
        """Open the cells; the context is all that makes a cell except its prompt and key."""
        self.folder = results / "cells" / kind / digest(dict(context))
        self._context = dict(context)

    def rows(self, prompt: str) -> dict[str, dict[str, Any]]:
        """Return all rows of a prompt by their keys."""
        rows: dict[str, dict[str, Any]] = {}
        for shard in sorted((self.folder / prompt).glob("*.json")):
            rows.update(json.loads(shard.read_text(encoding="utf-8")))
        return rows

    def add_rows(self, prompt: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
        """Write rows that were computed together, as one shard."""
        self._describe()
        shard = self.folder / prompt / f"{digest(sorted(rows))}.json"
        with atomic_file(shard) as path:
            path.write_text(json.dumps(rows, sort_keys=True), encoding="utf-8")

    def arrays(self, prompt: str, keys: Iterable[str]) -> dict[str, dict[str, NDArray[Any]]]:
        """Return the arrays of those keys that are there."""
        shards = {key: self.folder / prompt / f"{key}.safetensors" for key in keys}
        return {key: load_file(shard) for key, shard in shards.items() if shard.is_file()}

    def add_arrays(self, prompt: str, key: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write the arrays of one key."""
        self._describe()
        with atomic_file(self.folder / prompt / f"{key}.safetensors") as path:
            save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)

    def _describe(self) -> None:
        """Write down once, for people, the context behind the digest."""
        file = self.folder / "context.json"
        if not file.is_file():
            with atomic_file(file) as path:
                path.write_text(json.dumps(self._context, indent=1, sort_keys=True), encoding="utf-8")

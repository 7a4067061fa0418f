"""Checks of what lies beside the results: cells, and plain-named copies of figures."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from headscope.errors import AssetError
from headscope.pipeline.plan.node import KEY
from headscope.pipeline.store import provenance
from headscope.pipeline.store.cells import is_of_another_format, read_intact
from headscope.pipeline.store.files import sha256_file
from headscope.pipeline.store.verify import Finding, Kind

MARKER = re.compile(r"(?P<figure>\w+)--(?P<digest>[0-9a-f]{10})\.key")
PICTURES = (".pdf", ".png", ".csv")


def cell_files(results: Path) -> list[Path]:
    """List all files of cells; of cells in another format only the folder."""
    folders = [path for path in sorted((results / "cells").glob("*/*")) if path.is_dir()]
    return [file for folder in folders for file in ([folder] if is_of_another_format(folder) else _files(folder))]


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def verify_cell(path: Path) -> Iterator[Finding]:
    """Compare a cell, or the description of a context, with the digest in its name."""
    if path.is_dir():
        yield Finding(path, "holds cells of another format", Kind.OLD)
    elif read_intact(path) is None:
        yield Finding(path, "is not what was written")


def verify_copies(results: Path) -> Iterator[Finding]:
    """Compare the plain-named copies of figures with what their markers name, if gc has not removed that."""
    markers = [path for path in sorted((results / "figures").rglob("*.key")) if MARKER.fullmatch(path.name)]
    known = {marker.with_name(marker.name.partition("--")[0] + ending) for marker in markers for ending in PICTURES}
    for marker in markers:
        yield from _copies(results, marker)
    for path in sorted((results / "figures").rglob("*")):
        in_result = any(KEY.fullmatch(folder.name) or folder.name.endswith(".tmp") for folder in path.parents)
        if path.suffix in PICTURES and path not in known and not in_result:
            yield Finding(path, "is the copy of no figure", Kind.UNKNOWN)


def _copies(results: Path, marker: Path) -> Iterator[Finding]:
    figure, key = marker.name.partition("--")[0], marker.read_text(encoding="utf-8", errors="replace").strip()
    if not KEY.fullmatch(key) or f"{figure}--{key.rpartition('--')[2]}.key" != marker.name:
        yield Finding(marker, "does not name the figure that was copied")
        return
    try:
        recorded = provenance.read(results / "figures" / key)["files"]
    except AssetError:
        return
    yield from (
        Finding(marker, f"{name} is not the copy of figures/{key}") for name in changed_copies(marker, recorded)
    )


def changed_copies(marker: Path, recorded: Mapping[str, str]) -> list[str]:
    """Name the copies beside a marker that are missing or are not the figure's files, whose SHA-256 are recorded."""
    copies = [marker.with_name(marker.name.partition("--")[0] + ending) for ending in PICTURES]
    return [copy.name for copy in copies if not copy.is_file() or sha256_file(copy) != recorded.get(copy.name)]

"""Whether a finished folder still is what its job made, and its parents what that job read."""

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from headscope.errors import AssetError
from headscope.pipeline.store import provenance
from headscope.pipeline.store.files import sha256_file
from headscope.pipeline.store.provenance import Provenance

EVERY_FILE = math.inf


def problem(folder: Path, declared: Sequence[str] = ()) -> str | None:
    """Say what is wrong with a finished folder; None if nothing is.

    A file whose size and modification time are the recorded ones is trusted. Any other is hashed; if it is unchanged,
    its new time is recorded, so that a copy of a results folder is hashed once.
    """
    try:
        recorded = provenance.read(folder)
    except AssetError as error:
        return str(error).removeprefix(f"{folder}/")
    stats = provenance.stats(folder, files_of(folder, recorded))  # before any file is hashed
    if wrong := next(problems(folder, declared), None):
        return wrong
    if stats != recorded["stat"]:
        with suppress(AssetError, OSError):  # a folder that cannot be written costs time, nothing else
            provenance.write(folder, {**recorded, "stat": stats})
    return None


def problems(folder: Path, declared: Sequence[str] = (), hash_below: float = 0) -> Iterator[str]:
    """Yield all that is wrong with a finished folder: with its files, those outside that it stands for, its parents.

    Args:
        folder: the folder.
        declared: files that it must have.
        hash_below: files of fewer bytes are hashed even if size and modification time are those recorded.

    Raises:
        AssetError: provenance.json is missing, damaged or of an unknown format.
    """
    recorded = provenance.read(folder)
    if recorded.get("address", folder.name) != folder.name:
        yield f"it is {recorded['address']} under another name"
    yield from (f"{name} is missing" for name in declared if name not in [*recorded["files"], provenance.FILE])
    stats = provenance.stats(folder, files_of(folder, recorded))
    for name, sha256 in files_of(folder, recorded).items():
        if name not in stats:
            yield f"{name} is missing"
        elif sha256 is None:
            yield f"{name} was not there when the model was fetched"
        elif stats[name] == recorded["stat"].get(name) and stats[name][0] >= hash_below:
            continue
        elif _changed(folder / name, sha256):
            yield f"{name} has changed since it was {'fetched' if Path(name).is_absolute() else 'made'}"
    yield from _parents(folder, recorded)


def files_of(folder: Path, recorded: Provenance) -> dict[str, str | None]:
    """Return the SHA-256 of all files of a folder and of those outside that it stands for (see `outside_files`)."""
    return {**recorded["files"], **provenance.outside_files(folder)}


def _changed(file: Path, sha256: str) -> bool:
    try:
        return sha256_file(file) != sha256
    except OSError:  # an unreadable block, for one
        return True


def _parents(folder: Path, recorded: Provenance) -> Iterator[str]:
    """Report parents with other bytes than when the folder was made.

    A parent that gc has removed is no fault, and one without readable provenance has a problem of its own.
    """
    results = str(folder.parents[1])
    for address, files in recorded["parents"].items():
        with suppress(AssetError):
            if provenance.read(f"{results}/{address}")["files"] != files:
                yield f"made from other bytes of {address} than lie there now"

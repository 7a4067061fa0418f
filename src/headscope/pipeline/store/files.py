"""Digests of plain data; files and folders that appear whole or not at all."""

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from headscope.errors import AssetError, HeadscopeError
from headscope.pipeline.progress import progress


def canonical(obj: Any) -> str:
    """Return the one JSON string of `obj`: sorted keys, no spaces.

    Raises:
        ValueError: `obj` holds NaN or an infinity, which JSON cannot carry.
        TypeError: `obj` is no plain JSON data.
    """
    return json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(obj: Any, length: int = 10) -> str:
    """Return the first `length` hex digits of the SHA-256 of `canonical(obj)`."""
    return hashlib.sha256(canonical(obj).encode()).hexdigest()[:length]


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hashes(folder: Path, names: Sequence[str], out: Path) -> dict[str, Any]:
    """Return the part of the manifest in `out` about its files: each one's SHA-256, and one over all of them.

    Files outside `out` are used where they lie; `outside` has them again by absolute path.
    """
    files = {name: sha256_file(folder / name) for name in progress(names, f"hashing {folder.name}")}
    inside = folder.is_relative_to(out)
    outside = {} if inside else {str(folder.absolute() / name): sha256 for name, sha256 in files.items()}
    return {"files": files, "sha256": digest(files, 64), "outside": outside}


def results_root(out: Path) -> Path:
    """Return the results folder of `out` = `<root>/<stage>/<name>--<key>`, or of its temporary sibling."""
    return out.parent.parent


def sibling(final: Path) -> Path:
    """Name a hidden path beside `final`, on the same file system, so that a rename is atomic."""
    return final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}.tmp")


@contextmanager
def _clear_errors(final: Path) -> Iterator[None]:
    """Turn a full disk or a folder without write permission into one message that names `final`.

    Libraries in Rust or C++ raise errors of their own with the system's message.
    """
    try:
        yield
    except HeadscopeError:
        raise
    except Exception as error:
        code = error.errno if isinstance(error, OSError) else None
        if code in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in str(error):
            raise AssetError(f"the disk is full: cannot write {final}; free some space and run again") from error
        if code in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
            raise AssetError(f"cannot write {final} ({os.strerror(code)}); choose another place") from error
        raise


@contextmanager
def atomic_folder(final: Path) -> Iterator[Path]:
    """Yield an empty temporary sibling of `final`; rename it to `final` at success, remove it on any error.

    An older folder under the final name is replaced. A killed process leaves only the hidden sibling behind.

    Raises:
        AssetError: the disk is full or `final` cannot be written.
    """
    folder = sibling(final)
    try:
        with _clear_errors(final):
            folder.mkdir(parents=True)
            yield folder
            if final.exists():
                old = sibling(final)
                final.rename(old)
                folder.rename(final)
                shutil.rmtree(old)
            else:
                folder.rename(final)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def atomic_file(final: Path) -> Iterator[Path]:
    """Yield a temporary sibling to write; rename it to `final` at success, remove it on any error.

    Raises:
        AssetError: the disk is full or `final` cannot be written.
    """
    path = sibling(final)
    try:
        with _clear_errors(final):
            final.parent.mkdir(parents=True, exist_ok=True)
            yield path
            os.replace(path, final)
    finally:
        with suppress(OSError):  # it was renamed, or never made
            path.unlink()

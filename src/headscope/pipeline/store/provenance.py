"""Provenance of a result, written beside it: code, parents, packages, machine, time and memory."""

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from headscope.errors import AssetError
from headscope.models.folder import model_files
from headscope.pipeline.store.files import atomic_file, sha256_file
from headscope.pipeline.store.sealed import read_sealed, write_sealed
from headscope.source import SOURCE

FILE = "provenance.json"
SPEC = "spec.yaml"
Provenance = dict[str, Any]
PACKAGES = ("headscope", "torch", "transformers", "safetensors", "numpy", "datasets", "pyarrow", "wonderwords")


def collect(folder: Path, code: str, parents: Mapping[str, Mapping[str, str]], start: float) -> Provenance:
    """Collect the provenance of a finished folder.

    Args:
        folder: the folder; its files are hashed.
        code: digest of the code that made it.
        parents: SHA-256 of the files that it was made from, by address and name, as they were read.
        start: Unix time of the job's start.
    """
    files, outside = hash_files(folder), outside_files(folder)
    # A file outside that was written while the job ran may be newer than its digest.
    trusted = {
        name: stat
        for name, stat in stats(folder, outside).items()
        if stat[1] < start * 1e9 or sha256_file(Path(name)) == outside[name]
    }
    return {
        "code": code,
        "files": files,
        "stat": {**stats(folder, files), **trusted},
        "parents": dict(parents),
        "git": git_state(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "hardware": hardware(),
        "started": datetime.fromtimestamp(start, UTC).isoformat(timespec="seconds"),
        "seconds": round(time.time() - start, 3),
        **peak_memory(),
    }


def names(folder: Path) -> list[str]:
    """Return the relative paths of all files of a folder except provenance.json and hidden ones, which systems make."""
    files = sorted(path for path in folder.rglob("[!.]*") if path.is_file())
    return [name for path in files if (name := path.relative_to(folder).as_posix()) != FILE]


def hash_files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a folder by its relative path, except provenance.json."""
    return {name: sha256_file(folder / name) for name in names(folder)}


def outside_files(folder: Path) -> dict[str, str | None]:
    """Return the SHA-256 of files outside an asset's folder, by absolute path, as its manifest has them.

    They are the files that are used where they lie (`outside`), and the sources of copies (`copied`) that still exist.
    A file that has come into a model folder of the user's since, and would be loaded with the others, has None.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        copied = {name: sha256 for name, sha256 in manifest.get("copied", {}).items() if Path(name).exists()}
        added = dict.fromkeys(_files_in_use(manifest))
        return {**added, **manifest.get("outside", {}), **copied}
    except (OSError, ValueError, AttributeError):  # no asset, or the manifest is damaged, which its digest tells
        return {}


def _files_in_use(manifest: Mapping[str, Any]) -> list[str]:
    """Return the files that make a model in a folder of the user's."""
    if manifest.get("source") != "folder" or not manifest["outside"]:
        return []
    folder = Path(manifest["model"])
    with suppress(AssetError):  # of a missing file, which is recorded
        return [str(folder / name) for name in model_files(folder)]
    return []


def stats(folder: Path, names: Iterable[str]) -> dict[str, list[int]]:
    """Return size and modification time in ns of those files that exist; names may be absolute."""
    files = {name: folder / name for name in names}
    read = {name: file.stat() for name, file in files.items() if file.is_file()}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in read.items()}


def read(folder: Path | str) -> Provenance:
    """Return a folder's provenance, which callers must not change; a plan of 1,000 jobs asks 15,000 times.

    Raises:
        AssetError: it is missing, damaged or of an unknown format.
    """
    file = f"{folder}/{FILE}"
    try:
        stat = os.stat(file)
    except OSError as error:
        raise AssetError(f"{file} is missing") from error
    return _read(file, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=4096)
def _read(file: str, mtime_ns: int, size: int) -> Provenance:
    """Read a file once for as long as it stays the same."""
    return read_sealed(Path(file))


def write(folder: Path, provenance: Mapping[str, Any]) -> None:
    """Write a folder's provenance."""
    with atomic_file(folder / FILE) as path:
        write_sealed(path, provenance)


def git_state() -> dict[str, Any] | None:
    """Return the commit of the source tree and whether it has uncommitted changes; None outside a repository."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(SOURCE), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", ":/src"))}
    except (OSError, subprocess.SubprocessError):
        return None


def hardware() -> dict[str, Any]:
    """Name the processor, its cores, the memory and the GPUs, if the process used any."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    parts: dict[str, Any] = {"cpu": _cpu(), "cores": os.cpu_count(), "memory_gib": round(memory / 2**30, 1)}
    if (cuda := _cuda()) is not None:
        parts["gpu"] = [cuda.get_device_name(index) for index in range(cuda.device_count())]
    return parts


def peak_memory() -> dict[str, float]:
    """Return the peak memory of the process, in MiB, and the largest of its GPUs' peaks.

    Like any process, a child of the warm process counts the pages that it shares: about 370 MiB of imports.
    """
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts KiB on Linux, bytes on macOS
    peak = {"peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)}
    if (cuda := _cuda()) is not None:
        peaks = [cuda.max_memory_allocated(index) for index in range(cuda.device_count())]
        peak["peak_gpu_memory_mib"] = round(max(peaks) / 2**20, 1)
    return peak


def _cuda() -> Any:
    """Return torch.cuda if this process used it, without importing torch."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

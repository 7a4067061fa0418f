"""Provenance of a result, written beside it: code, parents, packages, machine, time and memory."""

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from headscope.pipeline.store.files import sha256_file
from headscope.source import SOURCE

FILE = "provenance.json"
SPEC = "spec.yaml"
Provenance = dict[str, Any]
PACKAGES = ("headscope", "torch", "transformers", "safetensors", "numpy", "datasets", "pyarrow", "wonderwords")


def collect(folder: Path, code: str, parents: Sequence[Path], start: float) -> Provenance:
    """Collect the provenance of a finished folder.

    Args:
        folder: the folder; its files are hashed.
        code: digest of the code that made it.
        parents: the folders that it was made from; their files' hashes come from their own provenance.
        start: Unix time of the job's start.
    """
    return {
        "code": code,
        "files": hash_files(folder),
        "parents": {f"{parent.parent.name}/{parent.name}": read(parent).get("files", {}) for parent in parents},
        "git": git_state(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "hardware": hardware(),
        "started": datetime.fromtimestamp(start, UTC).isoformat(timespec="seconds"),
        "seconds": round(time.time() - start, 3),
        **peak_memory(),
    }


def hash_files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a folder by its relative path, except provenance.json."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.relative_to(folder) != Path(FILE))
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


def read(folder: Path) -> Provenance:
    """Return a folder's provenance, or an empty one if it cannot be read."""
    try:
        provenance = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return provenance if isinstance(provenance, dict) else {}


def write(folder: Path, provenance: Mapping[str, Any]) -> None:
    """Write a folder's provenance."""
    (folder / FILE).write_text(json.dumps(provenance, indent=1) + "\n", encoding="utf-8")


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
    """Return the peak memory of the process, in MiB, and the largest of its GPUs' peaks."""
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

"""Stage `track`: replay results of any stage into Weights & Biases. Every failure is a warning, never a failed job."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from headscope.pipeline.store.files import results_root
from headscope.pipeline.store.parents import Parents


def run(spec: dict[str, Any], out: Path, parents: Parents) -> None:
    """Write tracked.json: the run of each folder, by the folder's name, and the warnings.

    Args:
        spec: experiment (the runs' group), project, mode ("offline" or "online"). Online needs WANDB_API_KEY and a
            network; runs that fail online are made offline, for `wandb sync`.
        out: the empty folder.
        parents: the folders to replay.
    """
    runs: dict[str, str] = {}
    warnings: list[str] = []
    left = [parent.folder for parent in parents]
    for mode in ["online", "offline"] if spec["mode"] == "online" else ["offline"]:
        if mode == "online" and not _has_key():
            warnings.append("no WANDB_API_KEY, so nothing is sent")
            continue
        done, problem = _replay(spec, mode, results_root(out), left)
        runs |= {folder.name: name for folder, name in done.items()}
        left = [folder for folder in left if folder not in done]
        if not left:
            break
        warnings.append(f"{mode} tracking of {len(left)} folders failed: {problem}")
    for warning in warnings:
        print(f"headscope: warning: {warning}", file=sys.stderr)
    (out / "tracked.json").write_text(json.dumps({"runs": runs, "warnings": warnings}, indent=1), encoding="utf-8")


def _has_key() -> bool:
    """Return True if the client would find a key: in the environment, or where `wandb login` leaves one."""
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    return bool(os.environ.get("WANDB_API_KEY")) or (netrc.is_file() and "wandb" in netrc.read_text(encoding="utf-8"))


def _replay(spec: dict[str, Any], mode: str, results: Path, folders: list[Path]) -> tuple[dict[Path, str], str]:
    """Run the tracker's process; return the runs that it completed and the last line that it printed."""
    with tempfile.TemporaryDirectory() as temporary:
        report, log = Path(temporary, "report"), Path(temporary, "log")
        report.touch()
        arguments = [report, spec["experiment"], spec["project"], mode, results, *folders]
        command = [sys.executable, "-m", "headscope.pipeline.tracking.wandb_replay", *map(str, arguments)]
        # A file, not a pipe: the client's own service would hold a pipe open.
        with log.open("w") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=output, env=_environment(results), start_new_session=True
            )
            try:
                status = process.wait()
            finally:
                _end_group(process.pid)
        lines = [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]
        words = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it said nothing"]
    return {Path(line["folder"]): line["run"] for line in lines}, f"status {status}, {words[-1]}"


def _environment(results: Path) -> dict[str, str]:
    """Return an environment in which the client writes only under the results folder."""
    own = results.resolve() / "wandb" / ".client"
    folders = {f"WANDB_{name}_DIR": str(own / name.lower()) for name in ("DATA", "CACHE", "CONFIG", "ARTIFACT")}
    return {**os.environ, **folders}


def _end_group(group: int) -> None:
    """Kill the processes that the tracker may have left behind."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)

"""`headscope <stage> <spec> <out> <parents...>`: run one job anywhere, without Hydra, Snakemake or tracking."""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import yaml

from headscope.errors import AssetError, ConfigError
from headscope.pipeline.collector import collector_paused
from headscope.pipeline.lifeline import end_with
from headscope.pipeline.plan.code import code_digest
from headscope.pipeline.plan.node import KEY, key_digest, modules
from headscope.pipeline.plan.stages import STAGES
from headscope.pipeline.store import left_out, provenance
from headscope.pipeline.store.files import atomic_folder, results_root
from headscope.pipeline.store.intact import problems
from headscope.pipeline.store.left_out import LeftOut
from headscope.pipeline.store.parents import Parents
from headscope.pipeline.store.runs import at_work
from headscope.pipeline.store.versions import release

LARGE = 64 << 20
"""Bytes from which a file is trusted by its size and time: every job would hash the whole model otherwise."""


def main(stage: str, arguments: Sequence[str]) -> int:
    """Run one job from the command line."""
    parser = argparse.ArgumentParser(prog=f"headscope {stage}", description=__doc__)
    parser.add_argument("spec", help="slice of the configuration, JSON")
    parser.add_argument("out", type=Path, help="folder to make, <results>/<stage>/<name>--<key>")
    parser.add_argument("parents", type=Path, nargs="*", help="finished folders it reads")
    values = parser.parse_args(arguments)
    try:
        spec = json.loads(values.spec)
    except ValueError as error:
        raise ConfigError(f"the spec of {stage} is no JSON: {error}") from error
    prepare()
    with at_work(results_root(values.out), f"{stage}/{values.out.name}"):
        run(stage, spec, values.out, values.parents)
    return 0


def prepare() -> None:
    """Let this process end as Snakemake, which started it, wants it to, or when that has ended."""
    signal.signal(signal.SIGTERM, _end)
    if parent := os.environ.get("HEADSCOPE_PARENT"):
        end_with(int(parent))


def _end(number: int, frame: FrameType | None) -> None:
    """End by an exception, which lets the temporary folder be removed; another signal must not break that off.

    The group's signals come twice, if the process that handed a batch over passes them on.
    """
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def run(stage: str, spec: dict[str, Any], out: Path, parents: Sequence[Path]) -> None:
    """Make one job's folder, whole or not at all, with its slice and provenance.

    A job on a task that cannot be drawn makes its declared files empty, without loading a model.

    Raises:
        ConfigError: the folder's key is not that of this slice, these parents and this code; the slice names other
            releases of packages than this machine has.
        AssetError: a parent is not what its job made.
    """
    start = time.time()
    code = code_digest(*modules(stage, spec))
    keyed = KEY.fullmatch(out.name)
    if keyed and keyed["digest"] != key_digest(stage, spec, [parent.name for parent in parents], code):
        raise ConfigError(
            f"{out.name} does not address these options with this code: the code has changed since the plan"
            " was made; run the same command again"
        )
    _check_versions(spec)
    read = {f"{parent.parent.name}/{parent.name}": _files_of(parent) for parent in parents}
    with atomic_folder(out) as folder:
        if reason := _left_out(spec, Parents(parents)):
            left_out.write(folder, reason)
            for name in STAGES[stage].outputs:
                left_out.write_empty(folder / name)
        else:
            import_stage(stage).run(spec, folder, Parents(parents))
        (folder / provenance.SPEC).write_text(yaml.safe_dump(spec, sort_keys=False), encoding="utf-8")
        provenance.write(folder, {"address": out.name, **provenance.collect(folder, code, read, start)})


def import_stage(name: str) -> ModuleType:
    """Import a stage; the garbage collector would take a fifth of the time of importing transformers."""
    with collector_paused():
        return import_module(f"headscope.pipeline.stages.{name}")


def _check_versions(spec: dict[str, Any]) -> None:
    """Refuse to compute with other releases than those of the address.

    Raises:
        ConfigError: naming both.
    """
    for package, planned in spec.get("versions", {}).items():
        if planned != (here := release(package)):
            raise ConfigError(
                f"the plan is for {package} {planned}, and this machine has {here}; install {package}=={planned}, or "
                f"plan with versions.{package}={here}"
            )


def _files_of(parent: Path) -> dict[str, str]:
    """Hash the files of a parent, but trust large ones whose size and time are unchanged; return all digests.

    Raises:
        AssetError: a file, or a model's or benchmark's file outside the results, is not the recorded one.
    """
    remedy = "to make it and its descendants anew, run headscope verify --delete and then the same command again"
    try:
        if wrong := next(problems(parent, hash_below=LARGE), None):
            raise AssetError(f"{parent.parent.name}/{parent.name}: {wrong}")
        files: dict[str, str] = provenance.read(parent)["files"]
    except AssetError as error:
        raise AssetError(f"{error}; {remedy}") from error
    return files


def _left_out(spec: dict[str, Any], parents: Parents) -> LeftOut | None:
    """Return why the one task that a job works on is left out; None if it was drawn, or if the job works on several."""
    if "task" not in spec:
        return None
    sources = parents if spec.get("calibrated_on") == "evaluation" else parents.all("prompts")
    return sources[0].left_out if sources else None

"""The check of a model where it is fetched, so that a wrong one stops an experiment before its first prompt."""

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headscope.models.check import Finding, refuse
from headscope.models.folder import weight_files
from headscope.pipeline.store.versions import releases

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHARE = 0.5
"""Of the machine's memory that a model may take to be checked here."""


def checked(folder: Path) -> list[dict[str, Any]] | None:
    """Check the model of a folder on the CPU, in float32 if it fits, else in bfloat16; None: it does not fit at all.

    A model that only criteria without probes can serve is let through, which is said on stderr.

    Raises:
        UnsupportedModelError: a comparison fails.
    """
    from headscope.models.loading import load_folder

    dtype = _dtype(sum((folder / name).stat().st_size for name in weight_files(folder)))
    if dtype is None:
        print(f"{folder}: larger than this machine's memory, to be checked by each job that loads it", file=sys.stderr)
        return None
    model, _ = load_folder(folder, dtype, "cpu")
    findings = findings_on(model)
    refuse(model, findings, probes=False)
    for finding in findings:
        if not finding.passed:
            print(f"{folder}: {finding.unknown or finding.compared}", file=sys.stderr)
    return [finding._asdict() for finding in findings]


def findings_on(model: "PreTrainedModel") -> list[Finding]:
    """Compare a model with what headscope takes it for (`headscope.inference.check_model`)."""
    # Imported by name: the code of criteria, which it runs, is no part of the address of a model or a result.
    findings: list[Finding] = import_module("headscope.inference.check_model").check_model(model)
    return findings


def findings_of(manifest: Mapping[str, Any]) -> list[Finding] | None:
    """Return what a manifest says was compared; None: nothing yet with the releases of this machine."""
    findings = manifest["checked"] if manifest.get("versions") == releases() else None
    return None if findings is None else [Finding(**finding) for finding in findings]


def _dtype(size: int) -> str | None:
    """Choose a precision for weights of so many bytes, two a number."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * SHARE
    return "float32" if 2 * size <= memory else "bfloat16" if size <= memory else None

"""`headscope check MODEL`: whether headscope serves a model rightly, as a table to paste into a report.

MODEL is a folder, a GGUF file, a name of conf/model or a model of the hub.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from headscope.errors import HeadscopeError
from headscope.models.check import Finding
from headscope.models.loading import load_folder
from headscope.pipeline.assets.model import fetch
from headscope.pipeline.plan import plan as planning

PACKAGES = ("headscope", "torch", "transformers")


def main(arguments: Sequence[str]) -> int:
    """Print what a model is and how it was compared; the exit status is 2 if headscope refuses it."""
    parser = argparse.ArgumentParser(prog="headscope check", description=__doc__)
    parser.add_argument("model", help="folder, GGUF file, name of conf/model or id on the hub")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16", "float64"))
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    values = parser.parse_args(arguments)
    start = time.monotonic()
    with _folder_of(values.model) as folder:
        refusal = _report(values.model, folder, values.dtype, values.device)
    print(f"{refusal or 'served rightly'} ({time.monotonic() - start:.0f} s)")
    return 2 if refusal else 0


@contextmanager
def _folder_of(model: str) -> Iterator[Path]:
    """Find a model's folder, or fetch it to a temporary one: a path, a name of conf/model, or else a hub id."""
    with tempfile.TemporaryDirectory() as temporary:
        source = {"type": "hub", "id": model, "revision": None}
        if Path(model).expanduser().exists():
            source = {"type": "folder", "path": model}
        elif os.sep not in model:
            plan = planning.build([f"model={model}"])
            slices = {node: json.loads(node.spec) for node in plan.nodes["assets"].values()}
            [node] = [node for node, of_node in slices.items() if of_node["kind"] == "model"]
            if plan.is_done(node):
                yield plan.folder(node) / "model"
                return
            source = slices[node]["source"]
        yield fetch(source, Path(temporary) / "model")


def _report(name: str, folder: Path, dtype: str, device: str) -> str:
    """Print a table of what the model is and of all comparisons; return why it is refused, or nothing."""
    from headscope.inference.check_model import check_model, described

    _row("checked", f"{name} on {device}, {platform.platform(terse=True)}")
    _row("versions", ", ".join(f"{package} {version(package)}" for package in PACKAGES))
    try:
        model, _ = load_folder(folder, dtype, device)
        for subject, words in described(model).items():
            _row(subject, words)
        findings = check_model(model)
    except HeadscopeError as error:
        return f"refused: {error}"
    for finding in findings:
        _row(finding.what, _words(finding))
    failed = [finding for finding in findings if not finding.passed]
    if any(not finding.probes for finding in failed):
        return "refused: the model computes something else than headscope takes it for"
    if failed:
        print("criteria with probes are refused for this model; criterion=qada is served")
    return ""


def _words(finding: Finding) -> str:
    if finding.unknown:
        return f"not known: {finding.unknown}"
    verdict = "equal" if finding.passed else "NOT EQUAL:"
    return f"{verdict} {finding.compared}: error {finding.error:.0e}, allowed {finding.allowed:.0e}"


def _row(subject: str, words: str) -> None:
    print(f"{subject:<31}{words}", flush=True)

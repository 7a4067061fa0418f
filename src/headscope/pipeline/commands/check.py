"""`headscope check MODEL`: whether headscope serves a model rightly, as a table to paste into a report.

MODEL is a folder, a GGUF file, a name of conf/model or a model of the hub.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from headscope.errors import AssetError, HeadscopeError
from headscope.models.check import Finding
from headscope.models.loading import load_folder
from headscope.pipeline.assets.model import fetch
from headscope.pipeline.plan import plan as planning
from headscope.pipeline.plan.slices import without_null
from headscope.pipeline.plan.unfinished import unfinished

PACKAGES = ("headscope", "torch", "transformers")
REFUSED = "refused"


def main(arguments: Sequence[str]) -> int:
    """Print what a model is and how it was compared; the exit status is 2 if headscope refuses it."""
    parser = argparse.ArgumentParser(prog="headscope check", description=__doc__)
    parser.add_argument("model", help="folder, GGUF file, name of conf/model or id on the hub")
    dtypes = ("float32", "bfloat16", "float16", "float64")
    parser.add_argument("--dtype", default="float32", choices=dtypes, help="of weights and activations")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    values = parser.parse_args(arguments)
    start = time.monotonic()
    with _fetched(values.model) as (folder, rope):
        verdict = _report(values.model, folder, rope, values.dtype, values.device)
    print(f"{verdict} ({time.monotonic() - start:.0f} s)")
    return 2 if verdict.startswith(REFUSED) else 0


@contextmanager
def _fetched(model: str) -> Iterator[tuple[Path, dict[str, Any] | None]]:
    """Find a model's folder, or fetch it to a temporary one; yield it with the RoPE that a YAML overrides, or None.

    Raises:
        AssetError: MODEL is a path where nothing is, or the model cannot be fetched.
    """
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "model"
        if Path(model).expanduser().exists():
            yield fetch({"type": "folder", "path": model}, out), None
        elif model.startswith((".", "/", "~")) or model.count("/") > 1 or model.lower().endswith(".gguf"):
            raise AssetError(f"{model} does not exist; give a folder, a GGUF file, a name of conf/model or a hub id")
        elif "/" in model:
            yield fetch({"type": "hub", "id": model, "revision": None}, out), None
        else:
            plan = planning.build([f"model={model}"])
            rope = plan.points[0].config.model.rope
            yield _fetched_by_name(plan, out), None if rope is None else without_null(rope)


def _fetched_by_name(plan: planning.Plan, out: Path) -> Path:
    """Return the folder of a plan's model: where a run has put it, or else fetched to `out`."""
    specs = {node: json.loads(node.spec) for node in plan.nodes["assets"].values()}
    [node] = [node for node, spec in specs.items() if spec["kind"] == "model"]
    if node.address in unfinished(plan):
        return fetch(specs[node]["source"], out)
    asset = plan.root / plan.folder(node)
    model: str = json.loads((asset / "manifest.json").read_text(encoding="utf-8"))["model"]
    return asset / model


def _report(name: str, folder: Path, rope: dict[str, Any] | None, dtype: str, device: str) -> str:
    """Print a table of what the model is and of all comparisons; return the verdict."""
    from headscope.inference.check_model import check_model, described

    _row("checked", f"{name} on {device}, {platform.platform(terse=True)}")
    _row("versions", ", ".join(f"{package} {version(package)}" for package in PACKAGES))
    try:
        model, tokenizer = load_folder(folder, dtype, device, rope=rope)
        for subject, words in described(model).items():
            _row(subject, words)
        template = "with" if tokenizer.chat_template else "without"
        rows = len(model.get_input_embeddings().weight)
        _row("tokenizer", f"{len(tokenizer)} tokens for {rows} embeddings, {template} chat template")
        findings = check_model(model)
    except HeadscopeError as error:
        return f"{REFUSED}: {error}"
    for finding in findings:
        _row(finding.what, _words(finding))
    failed = [finding for finding in findings if not finding.passed]
    if any(not finding.probes for finding in failed):
        return f"{REFUSED}: the model computes something else than headscope takes it for"
    if failed:
        return "served without probes: criteria with outliers, such as lost_output, are refused; choose criterion=qada"
    return "served rightly"


def _words(finding: Finding) -> str:
    if finding.unknown:
        return f"not known: {finding.unknown}"
    verdict = "equal" if finding.passed else "NOT EQUAL:"
    return f"{verdict} {finding.compared}: error {finding.error:.0e}, allowed {finding.allowed:.0e}"


def _row(subject: str, words: str) -> None:
    print(f"{subject:<31}{words}", flush=True)

"""Stage `assets`: bring a model or a benchmark's file here, check it, and write its manifest. Needs the internet."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from headscope.pipeline.store.parents import Parents


def run(spec: dict[str, Any], out: Path, parents: Parents) -> None:
    """Write an asset's files and manifest.json.

    Raises:
        AssetError: a file is missing, damaged or refused.
        UnsupportedModelError: a model's attention is not implemented.
    """
    module = import_module(f"headscope.pipeline.assets.{spec['kind']}")
    manifest = {"kind": spec["kind"], "name": spec["name"], **module.make(spec, out)}
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")

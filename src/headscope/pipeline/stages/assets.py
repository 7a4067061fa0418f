"""Stage `assets`: bring a model or a benchmark's file here, check it, and write its manifest. Needs the internet."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from headscope.pipeline.store.files import choose
from headscope.pipeline.store.parents import Parents

KINDS = {kind: f"headscope.pipeline.assets.{kind}" for kind in ("model", "data", "packaged")}


def run(spec: dict[str, Any], out: Path, parents: Parents) -> None:
    """Write an asset's files and manifest.json.

    Raises:
        AssetError: a file is missing, damaged or refused.
        UnsupportedModelError: a model's attention is not implemented.
        ConfigError: an unknown kind of asset or source.
    """
    module = import_module(choose("kind", spec["kind"], KINDS))
    manifest = {"kind": spec["kind"], "name": spec["name"], **module.make(spec, out)}
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")

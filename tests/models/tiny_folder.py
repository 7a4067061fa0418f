"""A tiny model in a folder, as the assets stage leaves it, and changes of its JSON files."""

import json
from pathlib import Path

from headscope.models.tiny import tiny_llama, tiny_tokenizer

SIZES = {"layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 8, "hidden": 32, "vocab": 300, "positions": 128, "seed": 0}
TEXTS = ["The quick brown fox jumps over the lazy dog.", "Pack my box with five dozen liquor jugs."]


def write_asset(folder: Path) -> Path:
    """Write model, tokenizer and manifest; return the folder."""
    tiny_llama(**SIZES).save_pretrained(folder / "model")
    tiny_tokenizer(TEXTS, SIZES["vocab"]).save_pretrained(folder / "model")
    manifest = {"kind": "model", "name": "tiny", "model": "model", "sha256": "a" * 64}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def edit(file: Path, **changes: object) -> None:
    """Change values of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

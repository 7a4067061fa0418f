"""Criterion files with a changed value, tensor or byte, for the model that they were calibrated for."""

import contextlib
import io
import json
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from fuzzing import Kind
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save
from strategies_benchmark_files import places
from strategies_folders import DAMAGES, HEADERS, NUMBERS, changed_weights

import headscope

sys.path.insert(0, str(Path(__file__).parents[1] / "inference"))
from adaptive_cases import IDS, calibrated, generated, small

RECIPES = ("lost_output", "qada", "in the prompt")
ODD = st.sampled_from(
    (None, True, "", "x", "nan", "0x1p+0", "8", [], [1], [[0.5, "x"]], [["a", "0x1p+0"]], {}, {"a": 1}, *NUMBERS)
)
WHOLE = ({"format": 2}, {"format": 99}, {"format": 4}, {"format": 5}, {}, [], 7, None, "x", {"format": "4"})


@cache
def model() -> Any:
    """Return the model that the files belong to."""
    return small()


@cache
def right(recipe: str) -> tuple[dict[str, str], dict[str, torch.Tensor], bytes, torch.Tensor]:
    """Return a right file's metadata, tensors and bytes, and what the model generates under it."""
    options = {"scope": "prompt", "chunk": 11} if recipe == "in the prompt" else {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "criterion.safetensors")
        calibrated(model(), "qada" if options else recipe, **options).save(path)
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        with headscope.adaptive(model(), path):
            tokens = generated(model(), IDS[:1], max_new_tokens=4, min_new_tokens=4)
        return metadata, tensors, path.read_bytes(), tokens


class CriterionFile(NamedTuple):
    """A changed file.

    Attributes:
        recipe: of the right file.
        kind: of change.
        change: its details.
    """

    recipe: str
    kind: str
    change: Any


TENSORS = ("missing", "more", "nan", "inf", "empty", "flat", "one less", "int", "half", "other", "zero", "renamed")


@st.composite
def criterion_files(draw: st.DrawFn) -> CriterionFile:
    """Change one thing of a right file."""
    recipe = draw(st.sampled_from(RECIPES))
    metadata, tensors, _, _ = right(recipe)
    plain = json.loads(metadata["headscope"])
    kind = draw(st.sampled_from(("none", "plain", "plain", "plain", "tensor", "bytes", "header", "whole")))
    if kind == "plain":
        options = [place for place in places(plain)[1:] if place[:2] != ("model", "parameters") or len(place) == 2]
        change: Any = draw(st.sampled_from(options)), draw(ODD), draw(st.sampled_from(("set", "set", "drop", "add")))
    elif kind == "tensor":
        change = draw(st.sampled_from(sorted(tensors))), draw(st.sampled_from(TENSORS))
    elif kind == "bytes":
        change = draw(st.sampled_from(sorted(DAMAGES)) | st.integers(0, 1 << 20))
    elif kind == "none":
        change = None
    elif kind == "header":
        change = draw(st.sampled_from([name for name in HEADERS if not name.startswith("weights")]))
    else:
        change = draw(st.sampled_from(WHOLE))
    return CriterionFile(recipe, kind, change)


def changed_tensor(tensors: dict[str, torch.Tensor], name: str, what: str) -> dict[str, torch.Tensor]:
    """Change one tensor."""
    tensor, rest = tensors[name], {other: tensor for other, tensor in tensors.items() if other != name}
    if what == "missing":
        return rest
    if what == "more":
        return {**tensors, "more": tensor.clone()}
    if what == "renamed":
        return {**rest, "other": tensor}
    odd = {
        "nan": torch.full_like(tensor, float("nan")),
        "inf": torch.full_like(tensor, float("inf")),
        "empty": tensor[:0],
        "flat": tensor.flatten(),
        "one less": tensor[1:],
        "int": tensor.to(torch.int32),
        "half": tensor.half(),
        "other": tensor + 1,
        "zero": tensor * 0,
    }
    return {**rest, name: odd[what].contiguous()}


def bytes_of(case: CriterionFile) -> bytes:
    """Return the changed file's bytes."""
    metadata, tensors, data, _ = right(case.recipe)
    plain = json.loads(metadata["headscope"])
    if case.kind == "plain":
        place, value, how = case.change
        node = plain
        for step in place[:-1]:
            node = node[step]
        if how == "set":
            node[place[-1]] = value
        elif how == "drop":
            del node[place[-1]]
        elif isinstance(node, dict):
            node["more"] = value
        else:
            node.append(value)
    elif case.kind == "whole":
        plain = case.change
    elif case.kind == "none":
        return data
    elif case.kind == "tensor":
        tensors = changed_tensor(tensors, *case.change)
    elif case.kind == "header":
        return changed_weights(data, case.change)
    elif isinstance(case.change, int):
        changed = bytearray(data)
        changed[case.change % len(data)] ^= 1 << (case.change % 8)
        return bytes(changed)
    else:
        return DAMAGES[case.change](data)
    return save(tensors, {**metadata, "headscope": json.dumps(plain)})


def check_criterion_file(case: CriterionFile) -> str:
    """Load the file and generate under it; a file that is taken is one that says the same."""
    expected = right(case.recipe)[-1]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        path = Path(folder, "criterion.safetensors")
        path.write_bytes(bytes_of(case))
        criterion = headscope.load(path, model())
        with headscope.adaptive(model(), criterion):
            tokens = generated(model(), IDS[:1], max_new_tokens=4, min_new_tokens=4)
        assert torch.equal(tokens, expected), "other tokens"
        return "the same tokens"


KINDS = [Kind("criterion files", criterion_files(), check_criterion_file, ci=25, long=700)]

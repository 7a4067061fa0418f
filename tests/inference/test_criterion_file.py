"""A saved criterion is the same when it is loaded, and is refused where it does not belong."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from adaptive_cases import IDS, calibrated, generated, small
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import headscope
from headscope.errors import AssetError
from headscope.inference.criterion_file import digest


def equal(a, b) -> bool:
    """Whether all tensors of two criteria and all else are the same."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, tuple) and hasattr(a, "_fields"):
        return all(map(equal, a, b))
    return equal(vars(a), vars(b)) if hasattr(a, "__dataclass_fields__") else a == b


@pytest.mark.parametrize(
    ("recipe", "options"),
    [("lost_output", {}), ("lost_output_gaussian", {}), ("qada", {}), ("qada", {"scope": "prompt", "chunk": 11})],
)
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_what_is_loaded_is_what_was_saved(tmp_path: Path, recipe: str, options: dict, family: str) -> None:
    model, path = small(family), tmp_path / "new" / "criterion.safetensors"
    criterion = calibrated(model, recipe, **options)
    for _ in range(2):  # an older file is replaced
        criterion.save(path)
    loaded = headscope.load(str(path), model)
    assert equal(loaded, criterion) and not equal(replace(loaded, name="other"), criterion)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    with headscope.adaptive(model, criterion) as run:
        expected = generated(model, IDS)
    with headscope.adaptive(model, loaded) as again:
        assert torch.equal(generated(model, IDS), expected)
    assert again.rows == run.rows and [row.queries for row in again.prompts] == ([60, 37, 0] if options else [])


def saved(tmp_path: Path) -> tuple:
    """A model, its criterion's file, and what the file says."""
    model, path = small(), tmp_path / "criterion.safetensors"
    calibrated(model).save(path)
    with safe_open(path, "pt") as file:
        return model, path, json.loads(file.metadata()["headscope"])


def rewrite(path: Path, plain: object, tensors: dict[str, torch.Tensor] | None = None, signed: bool = True) -> None:
    """Write other metadata or tensors, with a digest of their own or the old one."""
    text, tensors = json.dumps(plain), load_file(path) if tensors is None else tensors
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(tensors, path, {**metadata, "headscope": text, **({"sha256": digest(text, tensors)} if signed else {})})


def test_a_file_says_what_made_it(tmp_path: Path) -> None:
    _, _, plain = saved(tmp_path)
    assert plain["format"] == 5 and plain["headscope"] == headscope.__version__
    assert plain["window"] == {"sink": 4, "recent": 16} and plain["prompt_tokens"] == [70, 79, 88]
    assert plain["outliers"] == {"rule": "probe_attention", "count": 6, "bits": 4, "shared": 0.5}
    assert [target for target, _ in plain["thresholds"]] == [0.3, 0.7]
    assert (plain["model"]["layers"], plain["model"]["head_dim"]) == (3, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.update(format=4), r"format 4 of headscope 0.1.0, this is .* reads format 5; calibrate again"),
        (lambda p: p.update(format=6, headscope="9.0"), r"format 6 of headscope 9.0, .*, or install that version"),
        (lambda p: p["model"].update(head_dim=16), "head_dim was 16 and is 8; load that model, or calibrate"),
        (lambda p: p["model"]["rope_parameters"].update(rope_theta=5.0), "rope_parameters was .*5.0.* and is .*"),
        (lambda p: p["window"].update(recent=900), "window {'sink': 4, 'recent': 900} for 512 positions; calibrate"),
        (lambda p: p["window"].update(sink=-1), "window {'sink': -1"),
    ],
)
def test_a_file_of_another_format_model_or_window_is_refused(tmp_path: Path, change, message: str) -> None:
    model, path, plain = saved(tmp_path)
    change(plain)
    rewrite(path, plain)
    with pytest.raises(AssetError, match=message):
        headscope.load(path, model)


@pytest.mark.parametrize("change", [{"format": 2}, {}, [], None, 7, "x", {"format": "5"}], ids=str)
def test_metadata_that_are_not_of_this_format_are_refused_by_one_line(tmp_path: Path, change: object) -> None:
    model, path, _ = saved(tmp_path)
    rewrite(path, change)
    with pytest.raises(
        AssetError, match=r"criterion.safetensors has format .*, this is .* and reads format 5"
    ) as refusal:
        headscope.load(path, model)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda plain, tensors: plain.update(thresholds=[[0.3, "x"]]),
        lambda plain, tensors: plain["thresholds"][0].__setitem__(1, "0x1p+0"),
        lambda plain, tensors: plain["window"].update(recent=17),
        lambda plain, tensors: plain.update(more=1),
        lambda plain, tensors: plain.pop("estimator"),
        lambda plain, tensors: tensors.pop("offset"),
        lambda plain, tensors: tensors.update(more=torch.zeros(1)),
        lambda plain, tensors: tensors["slope"].mul_(2),
        lambda plain, tensors: tensors.update(slope=tensors["slope"].float()),
        lambda plain, tensors: tensors.update(queries=tensors["queries"].flatten(1)),
    ],
)
def test_a_file_that_was_edited_since_is_refused_whatever_it_says_now(tmp_path: Path, change) -> None:
    model, path, plain = saved(tmp_path)
    tensors = load_file(path)
    headscope.load(path, model)
    change(plain, tensors)
    rewrite(path, plain, tensors, signed=False)
    with pytest.raises(AssetError, match=r"criterion.safetensors is damaged or was edited: .*; calibrate again"):
        headscope.load(path, model)


def test_missing_and_damaged_files_are_refused(tmp_path: Path) -> None:
    model, path, _ = saved(tmp_path)
    with pytest.raises(AssetError, match=r"none.safetensors does not exist; make it with headscope.calibrate"):
        headscope.load(tmp_path / "none.safetensors", model)
    save_file({"x": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(AssetError, match=r"other.safetensors holds no criterion; give a file that"):
        headscope.load(tmp_path / "other.safetensors", model)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(AssetError, match="is damaged"):
        headscope.load(path, model)


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, path, _ = saved(tmp_path)
    before, criterion = path.read_bytes(), calibrated(model, "qada")
    with pytest.raises(AssetError, match=r"cannot write .*; choose another path"):
        criterion.save(path / "below.safetensors")

    def fails(*_) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", fails)
    with pytest.raises(AssetError, match="no space left"):
        criterion.save(path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1

"""The prompts stage: an Arrow dataset of both splits, the same bytes for the same spec."""

import hashlib
import json
import re
import sys
from pathlib import Path

import datasets
import pytest
import yaml

from headscope.benchmarks.longbench.local import standard_library
from headscope.benchmarks.registry import find
from headscope.benchmarks.sampling import Sampler
from headscope.errors import AssetError, ConfigError
from headscope.models.folder import read_tokenizer
from headscope.pipeline.stages import prompts
from headscope.pipeline.store.parents import Parents

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from small_tokenizer import small_tokenizer

SPEC = {
    "kind": "ruler",
    "task": "niah_single_2_prose",
    "length": 1024,
    "seed": 42,
    "samples": {"evaluation": 3, "calibration": 2},
    "chat_template": True,
    "positions": 2048,
}
COLUMNS = [
    *("id", "index", "split", "task", "text", "question_offset", "prefix_offset", "answer_prefix"),
    *("bucket", "classes", "truncated"),
    *("references", "metric", "max_new_tokens", "length", "seed", "source", "min_new_tokens", "stop_text"),
]


def assets(root: Path, name: str, spec: dict, manifest: dict) -> Path:
    folder = root / "assets" / f"{name}--0123456789"
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def parents(tmp_path) -> Parents:
    model = assets(tmp_path, "tiny", {"kind": "model", "name": "tiny"}, {"model": "model"})
    small_tokenizer().save_pretrained(model / "model")
    text = assets(tmp_path, "prose", {"kind": "packaged", "name": "prose"}, {"path": "content"})
    (text / "content").write_text(" ".join(f"Sentence {i} tells of number {i * i}." for i in range(900)))
    library = assets(tmp_path, "library", {"kind": "packaged", "name": "standard_library"}, {"path": "content"})
    (library / "content").write_text(json.dumps(standard_library()))
    return Parents([model, text, library])


def make(parents: Parents, out: Path, **changes) -> datasets.Dataset:
    out.mkdir(parents=True)
    prompts.run({**SPEC, **changes}, out, parents)
    return datasets.load_from_disk(out / "dataset")


def test_dataset_has_the_columns_and_counts_each_split_from_zero(parents, tmp_path):
    rows = make(parents, tmp_path / "out")
    assert set(rows.column_names) == set(COLUMNS)
    assert list(zip(rows["split"], rows["index"], strict=True)) == [
        *(("evaluation", i) for i in range(3)),
        *(("calibration", i) for i in range(2)),
    ]
    assert len(set(rows["id"])) == 5 and all(len(name) == 16 for name in rows["id"])
    for row in rows:
        assert row["text"][row["prefix_offset"] :] == row["answer_prefix"]
        assert row["text"][row["question_offset"] :].startswith("What is the special magic number")
        assert 0.9 * 1024 <= row["length"] <= 1024
        assert json.loads(row["source"])["queries"][0][1] == row["references"]


def test_jobs_of_a_process_read_a_tokenizer_once(parents, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(prompts, "read_tokenizer", lambda folder: read.append(folder) or read_tokenizer(folder))
    for length in (1024, 1200):
        make(parents, tmp_path / str(length), length=length)
    assert len(read) == 1
    (read[0].parent / "manifest.json").write_text('{"model": "model", "sha256": "another"}')
    make(parents, tmp_path / "other")
    assert len(read) == 2


def test_same_spec_gives_the_same_bytes(parents, tmp_path):
    def digests(folder: Path) -> dict[str, str]:
        files = (path for path in sorted(folder.rglob("*")) if path.is_file())
        return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    make(parents, tmp_path / "one")
    make(parents, tmp_path / "two")
    assert digests(tmp_path / "one") == digests(tmp_path / "two") != {}


def test_more_samples_keep_those_there_were(parents, tmp_path):
    few, many = (
        make(parents, tmp_path / "few"),
        make(parents, tmp_path / "many", samples={"evaluation": 5, "calibration": 0}),
    )
    assert few["id"][:3] == many["id"][:3]


def test_haystack_comes_from_the_text_given(parents, tmp_path):
    rows = make(parents, tmp_path / "out")
    by_split = {row["split"]: row["text"] for row in rows}
    assert "Sentence 3 tells" in by_split["evaluation"] and "Sentence 453 tells" in by_split["calibration"]


def test_an_unknown_task_is_refused_and_writes_nothing(parents, tmp_path):
    with pytest.raises(ConfigError, match="unknown ruler task 'nope'"):
        make(parents, tmp_path / "out", task="nope")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"length": 200}, r"its shortest prompt has (\d+) tokens .* choose a length of at least \1$"),
        ({"length": 4096}, r"evaluation prompt 0 has \d+ tokens, answer included, and the model 2048 positions"),
        ({"length": 1, "kind": "longbench", "task": "lcc_local"}, "a truncated text keeps at least 2 tokens"),
        ({"length": 64, "kind": "longbench", "task": "lcc_local"}, "64 tokens are too few for code .* greater length"),
    ],
)
def test_a_task_that_cannot_be_drawn_has_no_prompts_and_a_reason(parents, tmp_path, capsys, changes, reason):
    rows = make(parents, tmp_path / "out", **changes)
    assert len(rows) == 0 and rows.features == make(parents, tmp_path / "drawn").features
    left_out = json.loads((tmp_path / "out" / "left_out.json").read_text())
    spec = {**SPEC, **changes}
    assert re.match(f"task {spec['task']} at length {spec['length']}: {reason}", left_out["reason"])
    assert [left_out[name] for name in ("task", "length", "seed")] == [spec["task"], spec["length"], 42]
    assert capsys.readouterr().err == f"headscope: warning: left out: {left_out['reason']}\n"


@pytest.mark.parametrize("short", ["evaluation", "calibration"])
def test_a_task_that_only_one_split_can_draw_is_left_out_whole_and_needs_the_longer(parents, tmp_path, short):
    for seed in range(20):
        changes = {"task": "niah_multivalue_prose", "seed": seed}
        sampler = Sampler(find("ruler", changes["task"]), prompts._request({**SPEC, **changes}, parents))
        minimum = {split: sampler.minimum_length(split, count) for split, count in SPEC["samples"].items()}
        if minimum[short] < max(minimum.values()):
            break
    assert len(make(parents, tmp_path / "out", **changes, length=minimum[short])) == 0
    needs = json.loads((tmp_path / "out" / "left_out.json").read_text())["needs"]
    assert needs == max(minimum.values()) > minimum[short]
    assert len(make(parents, tmp_path / "long", **changes, length=needs)) == 5


def test_a_model_folder_without_tokenizer_is_refused(parents, tmp_path):
    (parents.one("assets", kind="model").folder / "model" / "tokenizer.json").unlink()
    with pytest.raises(AssetError, match=r"model folder .* has no tokenizer that transformers can read: \S"):
        make(parents, tmp_path / "out")

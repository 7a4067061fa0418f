"""Every bench starts: it imports what there is and explains itself."""

import csv
import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

BENCHES = sorted(path for path in Path(__file__).parents[1].glob("bench/*.py") if "def main(" in path.read_text())
SPEED = {"kernel": "decode", "shape": "x", "batch": "1", "recent": "128", "summary": "gaussian", "skew": "uniform"}


@pytest.mark.parametrize("bench", BENCHES, ids=lambda path: path.stem)
def test_a_bench_says_how_to_use_it(bench: Path) -> None:
    done = subprocess.run([sys.executable, bench, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")


def test_generation_compares_each_row_with_the_faster_dense_cache(tmp_path: Path) -> None:
    [bench] = [path for path in BENCHES if path.stem == "generation"]
    given = "--model tiny --tokens 512 --batches 2 --new-tokens 4 --calibration-tokens 400 --criteria qada lost_output"
    options = [*given.split(), "--sparsity", "0.6", "--repeats", "1", "--out", tmp_path / "generation.csv"]
    done = subprocess.run([sys.executable, bench, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "generation.csv").open()))
    found = {(row["cache"], row["criterion"]): (row["sparsity"], row["agree"]) for row in rows}
    assert len(found) == len(rows) == 4 and len({row["dense_tokens_per_s"] for row in rows}) == 1
    assert all(0 <= float(share) <= 1 for shares in found.values() for share in shares)
    for criterion in ("qada", "lost_output"):
        assert found["dynamic", criterion] == found["static", criterion]


def test_prompts_that_decide_say_how_many_pairs_were_local(tmp_path: Path) -> None:
    [bench] = [path for path in BENCHES if path.stem == "prompt"]
    given = "--model tiny --tokens 500 --batches 2 --sparsity 0.5 --repeats 1 --out"
    done = subprocess.run([sys.executable, bench, *given.split(), tmp_path / "x.csv"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    found = {row["target"]: float(row["sparsity"]) for row in csv.DictReader((tmp_path / "x.csv").open())}
    assert found == {"none": 0, "0.5": pytest.approx(0.5, abs=0.1), "all": 1}


def test_break_even_lies_between_the_sparsities_that_were_measured(tmp_path: Path) -> None:
    [bench] = [path for path in BENCHES if path.stem == "break_even"]
    # 4096: never faster; 8192: 1.2 times dense's time at 0, .8 at .5, so that .25 is as fast.
    measured = {4096: {0.0: 2.0, 0.75: 1.5}, 8192: {0.0: 1.2, 0.5: 0.8, 0.75: 0.6}}
    rows = [
        {**SPEED, "tokens": tokens, "sparsity": sparsity, "ms": 0.1 * time, "dense_ms": 0.1, "ratio": 1 / time}
        for tokens, times in measured.items()
        for sparsity, time in times.items()
    ]
    rows.append({**rows[0], "summary": "clusters", "ratio": 9})  # not among those that are compared
    with open(tmp_path / "speed.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    done = subprocess.run([sys.executable, bench, tmp_path / "speed.csv"], capture_output=True, text=True, check=True)
    assert "| decode | x | 1 | 4096 | 100 | none / none |" in done.stdout
    assert "| decode | x | 1 | 8192 | 20 | 0.25 / none |" in done.stdout
    assert "- decode, x, batch 1: faster at 0.75 local from 8192 tokens on" in done.stdout


def test_families_find_model_and_unit_of_published_figures(tmp_path: Path) -> None:
    [bench] = [path for path in BENCHES if path.stem == "several_models"]
    for model, unit in product(("a", "b"), ("head", "group")):
        _publish(tmp_path / model, model, unit)
    command = [sys.executable, bench, *sorted(tmp_path.glob("*/figures/models/*")), "--out", tmp_path / "out"]
    done = subprocess.run([*command, "--lengths", "1024"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name, columns in {"models": {"share", "sparsity_group"}, "tasks": {"task", "score"}}.items():
        rows = list(csv.DictReader((tmp_path / "out" / f"{name}.csv").open()))
        assert {(row["model"], row["unit"]) for row in rows} == set(product("ab", ("head", "group")))
        assert len(rows) == 8 and columns <= set(rows[0])
    assert (tmp_path / "out" / "models.png").stat().st_size > 10_000
    (tmp_path / "bare").mkdir()
    refused = subprocess.run(
        [*command[:2], tmp_path / "bare", *command[-2:]], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1 and "bare: no single score_bytes--*.key names a figure" in refused.stderr


def _publish(results: Path, model: str, unit: str) -> None:
    """A point of a sweep whose name does not say its unit: dense, one criterion, and rows that are not of a task."""
    figure, evaluation = results / "figures" / f"score_bytes-{unit}", results / "evaluation" / unit
    published = results / "figures" / "models" / f"point-{len(list(results.glob('evaluation/*')))}"
    for folder in (figure, evaluation, published):
        folder.mkdir(parents=True)
    title = {
        "model": model,
        "seed": [1],
        "benchmarks": {"ruler": {"tasks": ["t"], "lengths": [1024], "samples": 3, "most": ""}},
    }
    (figure / "spec.yaml").write_text(json.dumps({"title": title}))
    (figure / "provenance.json").write_text(json.dumps({"parents": {f"evaluation/{unit}": {}}}))
    (evaluation / "spec.yaml").write_text(json.dumps({"criteria": {"dense": {"unit": "head"}, "qada": {"unit": unit}}}))
    (published / "score_bytes--0.key").write_text(figure.name)
    shares = {"sparsity": 0.5, "sparsity_group": 0.5, "low": 0.4, "high": 1}
    same = {"length": 1024, "hard": False, "target": "", "score": 50, "tasks": 1, "prompts": 3, **shares}
    points = [
        {**same, "criterion": "dense", "kv_bytes": 1, "share": 1},
        {**same, "criterion": "qada", "kv_bytes": 0.5, "share": 0.6},
    ]
    of_means = [{**point, "mean": "all tasks", "versus": ""} for point in points]
    of_tasks = [{**point, "task": "t", "seed": "all"} for point in points]
    tables = {"score_bytes": [*of_means, {**of_means[1], "versus": "dense"}],
              "score_tasks": [*of_tasks, {**of_tasks[0], "seed": "1"}, {**of_tasks[0], "task": "mean"}]}  # fmt: skip
    for name, rows in tables.items():
        with open(published / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)

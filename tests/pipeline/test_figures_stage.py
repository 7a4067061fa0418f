"""The figures stage: a slice and finished folders in; PDF, PNG and CSV out."""

import pandas as pd
import pytest
import yaml

from headscope.pipeline.stages import figures
from headscope.pipeline.store.parents import Parents

TITLE = {
    "model": "tiny",
    "benchmarks": {"ruler": {"lengths": [1024], "tasks": ["fwe"], "most": "", "samples": 3}},
    "seed": [1],
}
CRITERIA = {"dense": {"kind": "dense", "estimator": None}, "qada": {"kind": "qada", "estimator": None}}


@pytest.fixture
def parents(tmp_path):
    folder = tmp_path / "results" / "evaluation" / "fwe--0123456789"
    folder.mkdir(parents=True)
    cells = [("dense", None, 60.0, 0.0), ("qada", 0.65, 55.0, 0.64), ("qada", 0.8, 40.0, 0.81)]
    rows = [
        {"prompt": str(n), "index": n, "benchmark": "ruler", "bucket": "", "task": "fwe", "length": 1024, "seed": 1,
         "truncated": False, "metric_failed": False, "criterion": name, "target": target,
         "score": score + n, "sparsity": sparsity, "sparsity_group": sparsity / 2, "kv_bytes": 1 - sparsity / 2}
        for n in range(3) for name, target, score, sparsity in cells
    ]  # fmt: skip
    pd.DataFrame(rows).to_parquet(folder / "rows.parquet")
    (folder / "spec.yaml").write_text(
        yaml.safe_dump({"benchmark": "ruler", "task": "fwe", "length": 1024, "criteria": CRITERIA})
    )
    return Parents([folder])


def draw(out, parents, **spec):
    out.mkdir()
    figures.run({"figure": "summary", "params": {"resamples": 20}, "title": TITLE, **spec}, out, parents)
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_a_figure_is_a_pdf_a_png_and_a_csv_and_the_same_bytes_again(tmp_path, parents):
    first = draw(tmp_path / "a", parents)
    assert sorted(first) == ["summary.csv", "summary.pdf", "summary.png"]
    assert first["summary.pdf"].startswith(b"%PDF") and first["summary.png"].startswith(b"\x89PNG")
    assert first == draw(tmp_path / "b", parents)


def test_the_csv_reads_back(tmp_path, parents):
    draw(tmp_path / "a", parents)
    table = pd.read_csv(tmp_path / "a" / "summary.csv", keep_default_na=False, na_values=[""])
    assert table.loc[table["versus"] == "dense", "score"].tolist() == [-5, -20]

"""Every bench starts: it imports what there is and explains itself."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

BENCHES = sorted(path for path in Path(__file__).parents[1].glob("bench/*.py") if path.stem != "common")


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

"""Every bench starts: it imports what there is and explains itself."""

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

"""Ten kinds of faults on stand-ins; `long.py` does two hundred, results/reference/faults/ holds its log."""

import sys
from pathlib import Path
from random import Random

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from kinds import KINDS
from projects import Small, recover

CHOSEN = (
    "command killed",
    "command terminated",
    "command interrupted",
    "Snakemake killed",
    "result deleted",
    "file truncated",
    "bit flipped, time kept",
    "result replaced by another",
    "plain-named figure lost or changed",
    "Snakemake's folder lost or garbled",
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return Small(tmp_path_factory.mktemp("undisturbed"), stand_ins=True)


@pytest.mark.parametrize("name", CHOSEN)
def test_a_run_recovers_by_the_documented_words(undisturbed, tmp_path, name):
    [kind] = [kind for kind in KINDS if kind.name == name]
    project = Small(tmp_path, stand_ins=True, finished=undisturbed)
    done = kind.fault(project, Random(name))
    assert recover(project, kind.recovery, undisturbed.tables()) == "equal", done

"""Members of an installed package: found by entry points, planned without being imported, part of addresses."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from headscope import source
from headscope.errors import ConfigError
from headscope.heads import registry
from headscope.heads.criteria import build

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "their_package/__init__.py": "",
    "their_package/helper.py": "FACTOR = 2\n",
    "their_package/margin.py": """\
from headscope.heads.criteria import Criterion
from their_package.helper import FACTOR

PLAN = {"needs": ["calibrated_on", "estimator"], "measures": "own"}


class Theirs(Criterion):
    def margin(self, query, view):
        return FACTOR * view.window_mass


CRITERION = Theirs
""",
    "their_package/estimate.py": 'PLAN = {"options": {"width": {"type": "int", "help": "of theirs", "low": 2}}}\n',
    "their_package-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n",
    "their_package-1.0.dist-info/entry_points.txt": """\
[headscope.criteria]
theirs = their_package.margin

[headscope.estimators]
their_estimate = their_package.estimate
""",
}
PLANNED = """\
import json, sys
from pathlib import Path
from headscope.pipeline.config import compose
from headscope.pipeline.plan import plan
compose.CACHE = Path(sys.argv[1])
nodes = list(plan.build(sys.argv[3:], Path(sys.argv[2])))
assert not {"torch", "their_package"} & set(sys.modules)
margins = [json.loads(node.spec) for node in nodes if node.stage == "margins"]
print(json.dumps([{node.stage: node.key for node in nodes}, margins[0]["criteria"]]))
"""
WORDS = [
    "experiment=smoke",
    "criterion=[dense,oracle,qada]",
    "criterion.qada.kind=theirs",
    "criterion.qada.estimator={name: of_theirs, kind: their_estimate, width: 3, covariance: null, moments: null}",
]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The folder of an installed package."""
    for name, text in FILES.items():
        file = tmp_path / "site" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path / "site"


def planned(package: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Plan in a process that has the package."""
    path = os.pathsep.join([str(ROOT / "src"), str(package)])
    command = [sys.executable, "-c", PLANNED, str(package.parent / "compose"), str(ROOT), *WORDS, *words]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})


def test_a_plan_has_their_criterion_and_their_code_is_part_of_its_addresses(package: Path) -> None:
    done = planned(package)
    assert done.returncode == 0, done.stderr
    before, criteria = json.loads(done.stdout)
    assert criteria["qada"]["kind"] == "theirs"
    assert criteria["qada"]["estimator"] == {"name": "of_theirs", "kind": "their_estimate", "width": 3}
    (package / "their_package/helper.py").write_text("FACTOR = 3\n")
    after, _ = json.loads(planned(package).stdout)
    renewed = {stage for stage in before if before[stage] != after[stage]}
    assert {"margins", "evaluation"} <= renewed and not {"dense", "oracle"} & renewed


def test_their_options_are_checked_as_ours(package: Path) -> None:
    done = planned(package, "criterion.qada.estimator.width=1")
    assert "option criterion.qada.estimator.width: 1 is not a whole number, at least 2" in done.stderr
    done = planned(package, "criterion.qada.kind=their")
    assert "no module headscope.heads.criteria.their and no entry point 'their'" in done.stderr
    assert "nearest: theirs" in done.stderr


@pytest.fixture
def installed(package: Path, monkeypatch: pytest.MonkeyPatch):
    """The package in this process."""
    monkeypatch.syspath_prepend(package)
    importlib.invalidate_caches()
    cached = (registry.kinds, registry.module, registry.criterion, registry.estimator)
    cached += (registry._entry_points, source._installed)
    for function in cached:
        function.cache_clear()
    yield package
    for function in cached:
        function.cache_clear()
    for name in [name for name in sys.modules if name.startswith("their_package")]:
        del sys.modules[name]


def test_their_criterion_is_built_as_ours(installed: Path) -> None:
    assert "theirs" in registry.kinds("criteria")
    built = build({"kind": "theirs"}, [{"threshold": 1.0}, {"threshold": 2.0}], registry)
    assert type(built).__name__ == "Theirs" and built.measures == "own"
    assert torch.equal(built.thresholds, torch.tensor([1.0, 2.0]).double())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('PLAN = {"measure": "own"}\n', "PLAN must be a literal with keys among needs, measures, ranked_by"),
        ("PLAN = dict(measures=None)\n", "PLAN must be a literal"),
    ],
)
def test_a_wrong_declaration_is_named(installed: Path, text: str, message: str) -> None:
    (installed / "their_package/margin.py").write_text(text)
    with pytest.raises(ConfigError, match=message):
        registry.criterion("theirs")


def test_a_member_that_declares_nothing_has_the_defaults() -> None:
    assert registry.criterion("dense") == registry.CriterionPlan()

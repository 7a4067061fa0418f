"""The table of stages says what the modules, the plan and the rules do."""

import re
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest

from headscope.pipeline import stages
from headscope.pipeline.config.overrides import groups
from headscope.pipeline.plan.stages import RESULT_STAGES, STAGES

ROOT = Path(__file__).resolve().parents[2]


def test_every_stage_has_a_module_with_run_and_a_rule():
    modules = {path.stem for path in Path(stages.__path__[0]).glob("*.py") if "\ndef run(" in path.read_text()}
    assert set(STAGES) == modules
    assert all((ROOT / "workflow/rules" / f"{name}.smk").is_file() for name in STAGES)


def test_stages_come_after_those_that_they_read():
    names = list(STAGES)
    for position, stage in enumerate(STAGES.values()):
        assert set(stage.reads) <= set(names[:position])
        assert all(names.index(a) < names.index(b) for a, b in pairwise(stage.reads))


def test_a_stage_reads_what_the_experiments_give_it(build):
    reads = {name: set() for name in STAGES}
    for experiment in groups(ROOT)["experiment"]:
        plan = build(f"experiment={experiment}", "tracking=wandb")
        for node in [*plan, *plan.tracks.values()]:
            reads[node.stage] |= {parent.stage for parent in node.parents}
    assert reads == {name: set(stage.reads) for name, stage in STAGES.items()}


@pytest.mark.parametrize("name", STAGES)
def test_the_stages_that_load_a_model_take_a_gpu(name):
    text = Path(find_spec(f"headscope.pipeline.stages.{name}").origin).read_text()
    assert STAGES[name].gpu == ("load_model(" in text)


def test_the_page_of_the_architecture_shows_these_stages():
    page = (ROOT / "docs/architecture.md").read_text().partition("\n## Stages\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| (\w+) \|", page, re.MULTILINE)) - {"stage"} == set(RESULT_STAGES)
    chains = [line.split(" --> ") for line in re.findall(r"^  (\w+ --> .+)$", page, re.MULTILINE)]
    arrows = {pair for chain in chains for pair in pairwise(chain) if pair[1] != "report"}
    assert arrows and all(a in STAGES[b].reads for a, b in arrows)

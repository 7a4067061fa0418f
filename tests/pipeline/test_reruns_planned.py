"""Which jobs a change renews, read off the plan: the table of what Snakemake would run again."""

import shutil

import pytest

from headscope import source
from headscope.pipeline.plan import code
from headscope.pipeline.plan.stages import RESULT_STAGES

BASE = "experiment=smoke"
DOWN = ("oracle", "calibration", "evaluation", "figures")
# With a criterion that has outliers: its margins come from the dense answers and from probes.
LOST = "criterion=[dense,oracle,qada,qada_random_words,lost_output]"
# The smoke experiment has no such criterion.
PLAIN = tuple(stage for stage in RESULT_STAGES if stage not in ("probes", "margins"))


def forget():
    """Read all sources again."""
    code._read.cache_clear()
    code.code_digest.cache_clear()


def renewed(before, after):
    """Stages that have a node in `after` that `before` has not, and stages that keep at least one."""
    old = {node.address for node in before}
    new = {node.stage for node in after if node.address not in old}
    kept = {node.stage for node in after if node.address in old}
    return new, kept


CHANGES = {
    "seed=42": (),
    "tracking=wandb": (),
    "tracking.mode=online": (),
    "results=elsewhere": (),
    "name=mine": (),
    "criterion=[qada_random_words,qada,static,static_oracle,oracle,local,dense]": (),
    "window.recent=64": DOWN,
    "window.sink=4": ("moments", *DOWN),
    "calibration.targets=[0.5]": ("calibration", "evaluation", "figures"),
    "calibration.length=1024": (),
    "calibration.prompts=1": ("calibration", "evaluation", "figures"),
    "criterion=[dense,oracle,static,static_oracle,local,qada,qada_random_words]": (),
    "criterion=[dense,local,oracle,static,static_oracle]": ("oracle", "calibration", "evaluation", "figures"),
    "~criterion.local": ("evaluation", "figures"),
    "criterion.qada.estimator.covariance=diagonal": DOWN,
    "figure.roc.params.target=0.5": ("figures",),
    "figure=[roc]": (),
    "seed=43": tuple(stage for stage in PLAIN if stage != "assets"),
    "model.dtype=float64": ("moments", "dense", *DOWN),
    "benchmark.ruler.samples.evaluation=3": ("prompts", "dense", *DOWN),
    "benchmark.ruler.lengths=[1024,2048]": ("prompts", "moments", "dense", *DOWN),
    "model.source.seed=1": PLAIN,
    "versions.torch=9.9.9": ("moments", "dense", *DOWN),
    "versions.transformers=9.9.9": tuple(stage for stage in PLAIN if stage != "assets"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_option_renews_what_depends_on_it(build, change):
    new, _ = renewed(build(BASE), build(BASE, change))
    assert new == set(CHANGES[change])


LOST_CHANGES = {
    "calibration.prompts=1": ("probes", "margins", "calibration", "evaluation", "figures"),
    "calibration.tasks=[fwe]": ("margins", "calibration", "evaluation", "figures"),
    "seed=43": tuple(stage for stage in RESULT_STAGES if stage != "assets"),
    "calibration.probes=7": ("probes", "margins", "calibration", "evaluation", "figures"),
    "criterion.lost_output.outliers.count=9": ("margins", "calibration", "evaluation", "figures"),
    "criterion.lost_output.outliers={rule: recent, shared: 0}": (
        "margins",
        "calibration",
        "evaluation",
        "figures",
    ),
    "criterion.lost_output.outliers.shared=0.25": ("margins", "calibration", "evaluation", "figures"),
    "criterion.lost_output.estimator.covariance=full": ("margins", "calibration", "evaluation", "figures"),
    "window.recent=64": (*DOWN, "margins"),
    "calibration.targets=[0.5]": ("calibration", "evaluation", "figures"),
}


@pytest.mark.parametrize("change", LOST_CHANGES)
def test_an_option_renews_what_depends_on_it_with_outliers_too(build, change):
    new, _ = renewed(build(BASE, LOST), build(BASE, LOST, change))
    assert new == set(LOST_CHANGES[change])


def test_a_criterion_with_outliers_leaves_the_others_masses_and_calibrations_alone(build):
    new, kept = renewed(build(BASE, LOST.replace(",lost_output", "")), build(BASE, LOST))
    assert new == {"probes", "margins", "calibration", "evaluation", "figures"}
    assert kept == {"assets", "prompts", "moments", "dense", "oracle", "calibration"}


def test_only_the_changed_figure_is_drawn_again(build):
    before, after = build(BASE), build(BASE, "figure.roc.params.target=0.5")
    new = [node.key for node in after if node.address not in {old.address for old in before}]
    assert len(new) == 1 and new[0].startswith("roc-")


def test_one_task_more_keeps_the_jobs_of_the_others(build):
    new, kept = renewed(build(BASE), build(BASE, "benchmark.ruler.tasks=[niah_single_1,fwe,vt]"))
    assert {"assets", "prompts", "dense", "oracle"} <= kept
    assert "assets" not in new


def test_one_criterion_more_keeps_prompts_answers_and_the_other_calibrations(build):
    less = "criterion=[dense,local,oracle,static,qada,qada_random_words]"
    new, kept = renewed(build(BASE, less), build(BASE))
    assert new == {"calibration", "evaluation", "figures"}  # static_oracle needs no estimator, so no new oracle
    assert kept == {"assets", "prompts", "moments", "dense", "oracle", "calibration"}


def test_a_sweep_shares_what_does_not_depend_on_it(build):
    planned = build(BASE, "window.recent=64,128")
    counts = {stage: len(nodes) for stage, nodes in planned.nodes.items()}
    once = {stage: len(nodes) for stage, nodes in build(BASE).nodes.items()}
    shared = ("assets", "prompts", "moments", "dense")
    assert counts == {stage: once[stage] * (1 if stage in shared else 2) for stage in RESULT_STAGES}


def test_flipping_a_value_back_leads_to_the_old_addresses(build):
    first = [node.address for node in build(BASE)]
    build(BASE, "window.recent=64")
    assert [node.address for node in build(BASE)] == first


@pytest.fixture
def edit(tmp_path, monkeypatch):
    """Edit a module in a copy of the sources."""
    copy = tmp_path / "source"
    shutil.copytree(source.SOURCE, copy)
    monkeypatch.setattr(source, "SOURCE", copy)
    forget()

    def write(module, text):
        file = source.source_file(module)
        file.write_text(file.read_text() + text)
        forget()

    yield write
    forget()


MODULES = {
    "headscope.benchmarks.ruler.metrics": {"evaluation", "figures"},
    "headscope.benchmarks.longbench.metrics": set(),
    "headscope.benchmarks.ruler.prompts": {"prompts", "dense", *DOWN},
    "headscope.pipeline.assets.model": set(PLAIN),
    "headscope.pipeline.assets.data": set(),
    "headscope.figures.roc": {"figures"},
    "headscope.figures.common.style": {"figures"},
    "headscope.heads.criteria.static": {"calibration", "evaluation", "figures"},
    "headscope.heads.estimators.gaussian": set(DOWN),
    "headscope.pipeline.stages.dense": {"dense", *DOWN},
    "headscope.pipeline.stages.prompts": {"prompts", "dense", *DOWN},
    "headscope.pipeline.progress": set(),
    "headscope.pipeline.tracking.record": set(),
    "headscope.pipeline.plan.plan": set(),
    "headscope.errors": set(),
}


LOST_MODULES = {
    "headscope.heads.outliers.probe_attention": {"margins", "calibration", "evaluation", "figures"},
    "headscope.heads.outliers.recent": set(),
    "headscope.heads.criteria.lost_output": {"margins", "calibration", "evaluation", "figures"},
    "headscope.lab.margins": {"margins", "calibration", "evaluation", "figures"},
}


@pytest.mark.parametrize("module", LOST_MODULES)
def test_code_of_outliers_renews_what_it_makes(build, edit, module):
    before = [node.address for node in build(BASE, LOST)]
    edit(module, "\n\nADDED = 1\n")
    assert {node.stage for node in build(BASE, LOST) if node.address not in before} == LOST_MODULES[module]


@pytest.mark.parametrize("module", MODULES)
def test_code_renews_what_it_makes(build, edit, module):
    before = build(BASE)
    edges = [node.address for node in before]
    edit(module, "\n\nADDED = 1\n")
    after = build(BASE)
    assert {node.stage for node in after if node.address not in edges} == MODULES[module]


def test_a_comment_renews_nothing(build, edit):
    before = [node.address for node in build(BASE)]
    for module in MODULES:
        edit(module, "\n# a comment\n")
    assert [node.address for node in build(BASE)] == before


def test_a_tasks_code_renews_that_task_alone(build, edit):
    before = {node.address for node in build(BASE)}
    edit("headscope.benchmarks.ruler.fwe", "\n\nADDED = 1\n")
    assert [node.name for node in build(BASE).nodes["prompts"].values() if node.address not in before] == [
        "fwe-1024-tiny"
    ]

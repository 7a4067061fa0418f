"""Every YAML of conf/ composes, and every option of the schema matters."""

import copy
import dataclasses
import functools
import re
from pathlib import Path

import pytest
import yaml

from headscope.benchmarks import registry as benchmarks
from headscope.errors import ConfigError
from headscope.heads import registry
from headscope.pipeline.config.options import find, options
from headscope.pipeline.config.overrides import groups
from headscope.pipeline.plan import node as node_module
from headscope.pipeline.plan.node import ancestors
from headscope.pipeline.plan.nodes import figures

ROOT = Path(__file__).resolve().parents[2]
GROUPS = groups(ROOT)
SELECTING = ("clusters", "pages", "probed_keys", "recent_keys", "snapkv", "top_keys")
"""Criteria whose budget the targets are."""
FOLDER = ["model.source.path=/m", "model.positions=8192"]
FOLDER += [f"model.expect.{name}=1" for name in ("layers", "heads", "kv_heads", "head_dim", "positions")]


def overrides(group, choice):
    """What instantiates one YAML."""
    if group == "benchmark":
        chosen = ",".join(dict.fromkeys(["ruler", choice]))
        ours = f"benchmark.{choice}"
        return [f"benchmark=[{chosen}]", f"{ours}.lengths=[2048]", f"{ours}.samples.evaluation=2"]
    if group == "criterion" and choice in SELECTING:
        return [f"criterion=[{choice}]", "calibration.rule=kv_bytes"]
    if group in ("criterion", "figure"):
        return [f"{group}=[{choice}]"]
    if group == "selector":
        return ["criterion=[dense,pages]", f"selector@criterion.pages.selector={choice}", "calibration.rule=kv_bytes"]
    if group == "estimator":
        return [f"estimator@criterion.qada.estimator={choice}", "~criterion.qada_random_words"]
    if group == "outliers":
        return ["criterion=[dense,oracle,lost_output]", f"outliers@criterion.lost_output.outliers={choice}"]
    return [f"{group}={choice}", *(FOLDER if choice == "folder" else [])]


@pytest.mark.parametrize(("group", "choice"), [(g, c) for g, choices in GROUPS.items() for c in choices])
def test_every_yaml_is_instantiated(build, group, choice):
    planned = build(*overrides(group, choice))
    assert planned.nodes["evaluation"] and planned.nodes["figures"]
    found = planned.points[0].config
    if group in ("model", "experiment"):
        assert (found.model.name if group == "model" else found.name) == choice
    if group == "estimator":
        assert found.criterion["qada"].estimator.name == choice


def test_the_default_experiment_is_what_runs_without_options(build):
    assert [n.address for n in build()] == [n.address for n in build("experiment=default")]
    assert build().points[0].config.model.device == "cpu"


def test_the_papers_experiments_and_the_study_run_on_a_named_gpu(build):
    for name in GROUPS["experiment"]:
        config, large = (
            build(f"experiment={name}").points[0].config,
            name.startswith(("paper/", "predictors", "transfer", "models")),
        )
        assert config.model.device == ("cuda" if large else "cpu")
        assert config.model.dtype == ("bfloat16" if large else "float32")


def test_the_papers_experiments_take_both_lengths_and_a_hundred_prompts(build):
    for name in (name for name in GROUPS["experiment"] if name.startswith("paper/")):
        points = build(f"experiment={name}").points
        assert sorted(length for point in points for length in point.config.benchmark["ruler"].lengths) == [8192, 16384]
        assert {point.config.benchmark["ruler"].samples.evaluation for point in points} == {100}


def test_a_criterions_and_a_figures_yaml_is_filed_under_its_own_name():
    for group in ("benchmark", "criterion", "figure"):
        for name in GROUPS[group]:
            assert (ROOT / "conf" / group / f"{name}.yaml").read_text().startswith(f"# @package {group}.{name}\n")


def test_composition_reads_neither_environment_nor_clock():
    for file in (ROOT / "conf").rglob("*.yaml"):
        assert not re.search(r"\$\{(oc\.env|oc\.decode|now|hydra)", file.read_text()), file


def test_no_choice_is_a_word_that_yaml_takes_for_a_truth_value():
    assert all(isinstance(yaml.safe_load(name), str) for choices in GROUPS.values() for name in choices)


def test_every_figure_has_a_caption():
    assert all((ROOT / "workflow" / "report" / f"{name}.rst").is_file() for name in GROUPS["figure"])


def test_every_option_is_explained():
    for option in options():
        assert option.metadata["help"], option.path
        assert option.accepts


DECLARATIONS = {
    "criterion": registry.CriterionPlan,
    "estimator": registry.EstimatorPlan,
    "outlier_rule": registry.OutlierPlan,
    "selector": registry.SelectorPlan,
}

# In no slice, so that they renew no result; `points` is used up in the plan.
FREE = {"name", "results", "points", "tracking.backend", "tracking.mode", "tracking.project"}


def variants():
    """Compositions that give every option a value; of each benchmark at least two tasks, of which one is changed."""
    two = "benchmark.longbench_local.tasks=[lcc_local,passage_retrieval_local]"
    yield from (["model=tiny", two], ["model=qwen25_coder_05b", two], ["experiment=paper/llama3_8b"])
    yield ["model=folder", "model.device=cuda", "model.device_map=auto", two, *FOLDER]
    yield ["model=llama3_8b", "model.source.revision=abc", two]
    yield ["figure.roc.params.target=0.5", two]
    yield ["experiment=paper/qwen2_7b", "assets.mirror=/mine"]
    yield ["experiment=smoke", "benchmark.ruler.source=/samples"]
    yield ["experiment=smoke", "criterion=[qada,lost_output,oracle_output]"]
    for name in GROUPS["estimator"]:
        yield ["experiment=smoke", "criterion=[qada]", f"estimator@criterion.qada.estimator={name}"]
    yield ["experiment=smoke", "criterion=[dense,pages,snapkv,clusters]", "calibration.rule=kv_bytes"]
    chosen = ["calibration.length=1024", "calibration.tasks=[fwe,niah_single_1]", "calibration.prompts=1"]
    yield ["experiment=smoke", "criterion=[oracle]", "benchmark.ruler.lengths=[1024,1025]", *chosen]
    yield ["experiment=smoke", "scope=prompt", "chunk=64"]
    yield ["experiment=smoke", "versions.torch=2.12.0", "versions.transformers=5.20.0"]


def test_every_option_reaches_some_slice(build, monkeypatch):
    monkeypatch.setattr(node_module, "code_digest", lambda *_: "")  # of modules that do not exist
    for name, of_unknown in (("module_of", ""), ("needs", [])):
        monkeypatch.setattr(benchmarks, name, tolerant(getattr(benchmarks, name), of_unknown))
    for name, declares_nothing in DECLARATIONS.items():
        monkeypatch.setattr(registry, name, declaring(getattr(registry, name), declares_nothing))
    monkeypatch.setattr(registry, "module", lambda family, kind: f"{family}.{kind}")
    read = set()
    for words in variants():
        for point in build(*words).points:
            read |= options_that_renew(point.config)
    assert {option.path for option in options()} - read == FREE


def tolerant(function, of_unknown):
    """A function of the registry that has an answer for tasks that do not exist, too."""

    @functools.cache
    def answer(kind, task, *rest):
        known = kind in benchmarks.KINDS and task in benchmarks.names(kind)
        return function(kind, task, *rest) if known else of_unknown

    return answer


def declaring(function, declares_nothing):
    """A function of the registry of families that has an answer for kinds that do not exist, too."""

    def answer(kind):
        try:
            return function(kind)
        except ConfigError:
            return declares_nothing()

    return answer


def options_that_renew(config):
    """Paths of the options that change some address, found by changing one after the other."""
    before = addresses(config)
    found = set()
    for path, set_value, value in settings(config, ""):
        if value is None:
            continue
        changed = copy.deepcopy(config)
        benchmarks = [name for name in config.benchmark if name != value]
        set_value(changed, benchmarks[0] if re.search(r"benchmark\..*calibrated_on", path) else other(value))
        if addresses(changed) != before:
            found.add(next(option.path for option in options() if option == find(path)))
    return found


def addresses(config):
    return {node.address for node in ancestors(figures([config]).values())}


def other(value):
    """A value that differs, of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        known = {"calibration": "evaluation", "evaluation": "calibration", "other_tasks": "evaluation"}
        return known.get(value, value + "x")
    if isinstance(value, list):
        return [*value[:-1], other(value[-1])] if value else [1]
    return {**value, "more": 1}


def settings(node, prefix):
    """Yield path, setter and value of every leaf of a configuration."""
    items = vars(node).items() if dataclasses.is_dataclass(node) else node.items()
    for name, value in items:
        path = f"{prefix}{name}"
        if dataclasses.is_dataclass(value) or (isinstance(value, dict) and find(path) is None):
            yield from settings(value, f"{path}.")
        else:
            yield path, setter(path), value


def setter(path):
    def write(config, value):
        *heads, last = path.split(".")
        for head in heads:
            config = config[head] if isinstance(config, dict) else getattr(config, head)
        if isinstance(config, dict):
            config[last] = value
        else:
            setattr(config, last, value)

    return write

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from headscope.errors import ConfigError
from headscope.pipeline.config import compose
from headscope.pipeline.plan.stages import RESULT_STAGES

ROOT = Path(__file__).resolve().parents[2]


def addresses(planned, *stages):
    return {node.address for node in planned if not stages or node.stage in stages}


def test_every_node_comes_after_its_parents(build):
    seen = set()
    for node in build("experiment=smoke"):
        assert {parent.address for parent in node.parents} <= seen
        seen.add(node.address)


def test_keys_are_equal_in_another_process_and_with_a_cold_cache(build, tmp_path):
    code = "from pathlib import Path\nfrom headscope.pipeline.config import compose\n"
    code += "from headscope.pipeline.plan import plan\n"
    code += f"compose.CACHE = Path({str(tmp_path / 'other')!r})\n"
    code += f"print(*(n.address for n in plan.build(['experiment=smoke'], Path({str(ROOT)!r}))))"
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    build("experiment=smoke")
    assert other.stdout.split() == [node.address for node in build("experiment=smoke")]


def test_a_cached_composition_is_the_composition(build, tmp_path, monkeypatch):
    cold = build("experiment=smoke", "window.recent=64").points[0].config
    monkeypatch.setattr(compose, "composed", lambda *_: pytest.fail("composed again"))
    warm = build("experiment=smoke", "window.recent=64").points[0].config
    assert warm == cold and list(warm.criterion) == list(cold.criterion)


def test_a_cache_that_cannot_be_written_is_no_error(build, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(compose, "CACHE", tmp_path / "file" / "cache")
    assert build("experiment=smoke").points


@pytest.mark.parametrize(
    ("overrides", "points"),
    [
        (["window.sink=range(4,7)"], ["smoke/window.sink=4", "smoke/window.sink=5", "smoke/window.sink=6"]),
        (["window.recent=choice(64,128)"], ["smoke/window.recent=64", "smoke/window.recent=128"]),
        (["seed=1"], ["smoke"]),
        (
            ["benchmark.ruler.lengths=[1024],[2048]"],
            ["smoke/benchmark.ruler.lengths=1024", "smoke/benchmark.ruler.lengths=2048"],
        ),
        (["window.recent=64,128", "window.sink=4"], ["smoke/window.recent=64", "smoke/window.recent=128"]),
        (["seed=1,2"], ["smoke"]),
        (["seed=1,2", "window.recent=64,128"], ["smoke/window.recent=64", "smoke/window.recent=128"]),
    ],
)
def test_sweeps_follow_hydras_grammar(build, overrides, points):
    assert [point.name for point in build("experiment=smoke", *overrides).points] == points


def test_a_sweep_is_the_union_of_its_points(build):
    swept = build("experiment=smoke", "window.recent=64,128", "seed=1,2")
    single = [build("experiment=smoke", f"window.recent={r}", f"seed={s}") for r in (64, 128) for s in (1, 2)]
    stages = [stage for stage in RESULT_STAGES if stage != "figures"]
    assert addresses(swept, *stages) == set().union(*(addresses(one, *stages) for one in single))
    assert len(swept.points) == 2


def test_figures_pool_the_seeds_of_a_sweep(build):
    swept = build("experiment=smoke", "seed=1,2")
    [point] = swept.points
    assert point.seeds == [1, 2]
    measured = ("evaluation", "oracle", "margins", "calibration")
    for node in point.figures.values():
        assert {parent.address for parent in node.parents} == addresses(swept, *measured)
        assert {json.loads(parent.spec)["seed"] for parent in node.parents} == {1, 2}
        assert json.loads(node.spec)["title"]["seed"] == [1, 2]


def test_an_experiments_points_make_one_plan(build):
    planned = build("experiment=paper/llama3_8b")
    pairs = {(point.config.model.name, *point.config.benchmark["ruler"].lengths) for point in planned.points}
    assert pairs == {("llama3_8b", 8192), ("llama3_8b_rope16k", 16384)}
    assert len(planned.nodes["evaluation"]) == 2 * (13 + 21)


def test_the_predictors_study_pools_three_seeds_in_one_set_of_figures(build):
    planned = build("experiment=predictors")
    [point] = planned.points
    assert (point.name, point.seeds) == ("predictors", [1, 2, 3])
    assert set(point.figures) == {"score_bytes", "score_tasks", "equal_sparsity", "quality", "agreement", "head_map"}
    assert len(planned.nodes["evaluation"]) == len(planned.nodes["margins"]) == 3 * 3 * 11
    recorded = {
        json.loads(parent.spec)["seed"] for parent in point.figures["quality"].parents if parent.stage == "margins"
    }
    assert recorded == {1, 2, 3}


def test_the_study_of_models_pools_seeds_and_asks_each_model_by_head_and_by_group(build):
    points = build("experiment=models", "benchmark.ruler.tasks=[vt,fwe]").points
    assert all(point.seeds == [1, 2, 3] for point in points)
    configs = [point.config for point in points]
    units = {(config.model.name, config.criterion["lost_output"].unit) for config in configs}
    models = ("smollm2_135m", "gemma3_270m", "qwen25_coder_05b", "qwen25_coder_15b")
    assert units == {(model, unit) for model in models for unit in ("head", "group")} and len(points) == len(units)
    longest = {config.model.name: max(config.benchmark["longbench_local"].lengths) for config in configs}
    assert longest == dict(zip(models, (8192, 8192, 16384, 16384), strict=True))


def test_an_override_of_the_seed_leaves_one_of_an_experiments_points(build):
    [point] = build("experiment=predictors", "seed=9").points
    assert point.seeds == [9]


def test_an_override_wins_over_an_experiments_points(build):
    planned = build("experiment=paper/llama3_8b", "benchmark.ruler.lengths=[4096]")
    assert {tuple(point.config.benchmark["ruler"].lengths) for point in planned.points} == {(4096,)}


def test_plain_copies_are_named_after_experiment_and_point(build):
    one, two = build("experiment=smoke"), build("experiment=smoke", "window.recent=64,128", "seed=1,2")
    name, node = next(iter(one.copies().items()))
    assert name == f"smoke/{json.loads(node.spec)['figure']}--{node.key.rpartition('--')[2]}"
    assert {copy.rpartition("/")[0] for copy in two.copies()} == {"smoke/window.recent=64", "smoke/window.recent=128"}


def test_a_results_folder_that_cannot_be_written_is_one_error(build, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"option results: .*file is no folder"):
        build("experiment=smoke", f"results={tmp_path}/file/results").check()
    build("experiment=smoke", f"results={tmp_path}/new/results").check()
    assert not (tmp_path / "new").exists()


def test_a_mirror_or_sample_folder_without_a_needed_file_is_one_error(build, tmp_path):
    essays = "benchmark.ruler.tasks=[niah_single_2,vt]"
    missing = build("experiment=smoke", essays, f"assets.mirror={tmp_path}")
    with pytest.raises(ConfigError, match=r"assets\.mirror: .* has no ruler/essays/\*\.txt, which essays is read from"):
        missing.check()
    (tmp_path / "ruler" / "essays").mkdir(parents=True)
    (tmp_path / "ruler" / "essays" / "one.txt").touch()
    missing.check()
    official = build("experiment=smoke", f"benchmark.ruler.source={tmp_path}")
    with pytest.raises(ConfigError, match=r"source: .*(fwe|niah_single_1)\.jsonl does not exist"):
        official.check()
    for task in ("fwe", "niah_single_1"):
        (tmp_path / f"{task}.jsonl").touch()
    official.check()


def test_official_samples_are_found_as_rulers_scripts_write_them(build, tmp_path):
    (tmp_path / "fwe").mkdir()
    (tmp_path / "fwe" / "validation.jsonl").touch()
    planned = build("experiment=smoke", f"benchmark.ruler.source={tmp_path}")
    specs = [json.loads(node.spec) for node in planned.nodes["assets"].values()]
    paths = {spec["path"] for spec in specs if spec["kind"] == "data"}
    assert paths == {str(tmp_path / "fwe" / "validation.jsonl"), str(tmp_path / "niah_single_1.jsonl")}


def test_one_benchmark_is_calibrated_on_another_at_the_nearest_length(build):
    overrides = ["benchmark.ruler.lengths=[1024,4096]", "benchmark.longbench_local.lengths=[900,3500]"]
    planned = build("experiment=default", *overrides)
    spec = {node.key: json.loads(node.spec) for node in planned.nodes["calibration"].values()}
    for node in planned.nodes["evaluation"].values():
        evaluated = json.loads(node.spec)
        near = {900: 1024, 3500: 4096}.get(evaluated["length"], evaluated["length"])
        for parent in (spec[parent.key] for parent in node.parents if parent.stage == "calibration"):
            own = parent["calibrated_on"] == "evaluation"
            expected = (evaluated["benchmark"], evaluated["length"]) if own else ("ruler", near)
            assert (parent["benchmark"], parent["length"]) == expected
            assert parent["task"] in (None, evaluated["task"])
    shared = [s for s in spec.values() if s["criterion"] == "static" and s["task"] is None]
    assert {s["length"] for s in shared} == {1024, 4096}  # all of RULER's tasks, for any task of longbench_local


def fitted_on(planned):
    """Of every calibration that an evaluation reads: criterion, evaluated task and length, cells of its parents."""
    for node in planned.nodes["evaluation"].values():
        evaluated = json.loads(node.spec)
        for parent in (parent for parent in node.parents if parent.stage == "calibration"):
            cells = {(spec["task"], spec["length"]) for spec in (json.loads(p.spec) for p in parent.parents)}
            yield json.loads(parent.spec)["criterion"], evaluated["task"], evaluated["length"], cells


TASKS = {"niah_single_1", "fwe", "vt"}
THREE = ("experiment=smoke", "benchmark.ruler.tasks=[niah_single_1,fwe,vt]", "benchmark.ruler.lengths=[1024,2048]")


def test_a_chosen_length_and_chosen_tasks_are_what_criteria_are_fitted_on(build):
    planned = build(*THREE, "calibration.length=1024", "calibration.tasks=[fwe,vt]")
    for criterion, task, length, cells in fitted_on(planned):
        left_out = {task} if criterion == "static" else set()
        others = {(other, 1024) for other in {"fwe", "vt"} - left_out}
        assert cells == ({(task, length)} if criterion == "static_oracle" else others)


def test_a_static_list_of_another_length_leaves_the_evaluated_task_out(build):
    found = {(task, length): cells for criterion, task, length, cells in
             fitted_on(build(*THREE, "calibration.length=2048")) if criterion == "static"}  # fmt: skip
    assert found == {(task, n): {(other, 2048) for other in TASKS - {task}} for task in TASKS for n in (1024, 2048)}


def test_probes_come_from_the_prompts_that_criteria_are_fitted_on(build):
    words = ["criterion=[dense,oracle,lost_output]", "calibration.length=1024", "calibration.tasks=[fwe,vt]"]
    nodes = build(*THREE, *words, "calibration.prompts=1").nodes
    probes = [json.loads(node.spec) for node in nodes["probes"].values()]
    assert {(spec["task"], spec["length"], spec["prompts"]) for spec in probes} == {("fwe", 1024, 1), ("vt", 1024, 1)}
    assert {len([p for p in node.parents if p.stage == "probes"]) for node in nodes["evaluation"].values()} == {2}
    chosen = [json.loads(node.spec) for node in nodes["calibration"].values()]
    assert all((spec["tasks"], spec["prompts"]) == (["fwe", "vt"], 1) for spec in chosen)


def test_a_list_fitted_on_evaluated_prompts_does_not_depend_on_which_calibration_prompts_are_used(build):
    plain, fewer = (build(*THREE, *words).nodes["calibration"] for words in ((), ("calibration.prompts=1",)))
    assert {key for key in plain if key in fewer} == {key for key in plain if key.startswith("static_oracle-")} != set()


def test_the_transfer_study_is_calibrated_at_home_and_elsewhere(build):
    planned = build("experiment=transfer")
    points = {point.name.removeprefix("transfer/").split(",")[0]: point for point in planned.points}
    assert len(points) == 5 + 6 and all(point.seeds == [1, 2, 3] for point in points.values())
    halves = [point.config.calibration.tasks for point in planned.points if point.config.calibration.tasks]
    assert sorted(halves[0] + halves[1]) == sorted(planned.points[0].config.benchmark["ruler"].tasks)
    prompts = [point.config.calibration.prompts for point in planned.points if point.config.calibration.prompts]
    assert prompts == [1, 2, 4, 8, 16, 32]
    back = points["benchmark.ruler.calibrated_on=longbench_local"].figures["drift"].parents
    assert {json.loads(node.spec)["benchmark"] for node in back if node.stage == "calibration"} == {"longbench_local"}
    away = points["calibration.length=1024"].figures["drift"].parents
    assert {json.loads(node.spec)["length"] for node in away if node.stage == "calibration"} == {1024}
    assert {json.loads(node.spec)["length"] for node in away if node.stage == "evaluation"} == {1024, 2048, 4096}
    assert max(len(name) for point in planned.points for name in point.name.split("/")) < 200


def test_outside_a_clone_the_plan_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(compose, "__file__", str(tmp_path / "src" / "compose.py"))
    with pytest.raises(ConfigError, match="clone of headscope"):
        compose.find_root(tmp_path)


def test_the_scope_is_part_of_the_keys_of_what_decides_and_of_nothing_else(build):
    question, prompt, smaller = (
        build("experiment=smoke", *more) for more in ((), ("scope=prompt",), ("scope=prompt", "chunk=64"))
    )
    deciding = ("oracle", "margins", "calibration", "evaluation", "figures")
    others = [stage for stage in RESULT_STAGES if stage not in deciding]
    for found in (prompt, smaller):
        assert addresses(found, *others) == addresses(question, *others)
        assert not addresses(found, *deciding) & addresses(question, *deciding)
    assert not addresses(prompt, *deciding) & addresses(smaller, *deciding)
    assert addresses(build("experiment=smoke", "scope=prompt", "chunk=256")) == addresses(prompt)
    assert not any("chunk" in json.loads(node.spec) for node in question)


@pytest.mark.parametrize(
    ("overrides", "probes"),
    [
        (["criterion=[qada]"], False),
        (["criterion=[qada]", "estimator@criterion.qada.estimator=clusters_small"], True),
    ],
)
def test_an_estimator_that_looks_at_probes_is_calibrated_with_them(build, overrides, probes):
    nodes = build("experiment=smoke", *overrides).nodes
    [oracle, *_] = nodes["oracle"].values()
    assert bool(nodes["probes"]) == bool(nodes["margins"]) == probes
    assert bool(json.loads(oracle.spec)["estimators"]) != probes
    for node in [*nodes["margins"].values(), *nodes["evaluation"].values()]:
        assert any(parent.stage == "probes" for parent in node.parents) == probes


def test_moments_of_another_text_are_made_for_a_criterion_with_margins_too(build):
    overrides = ["criterion=[lost_output]", "estimator@criterion.lost_output.estimator=gaussian_random_words"]
    overrides += ["criterion.lost_output.outliers.shared=0"]  # a Gaussian serves one number of keys
    nodes = build("experiment=smoke", *overrides).nodes
    assert nodes["moments"]
    for node in [*nodes["margins"].values(), *nodes["evaluation"].values()]:
        assert any(parent.stage == "moments" for parent in node.parents)


def test_a_criterion_without_margins_may_read_probes_alone(build):
    """`local_outliers` chooses keys by probes and has no margin that a margins node could hold."""
    for words in (["criterion=[dense,local_outliers]"], ["criterion=[dense,probed_keys]", "calibration.rule=kv_bytes"]):
        stages = {node.stage for node in build("experiment=smoke", *words)}
        assert "probes" in stages and "margins" not in stages
    assert "margins" in {node.stage for node in build("experiment=smoke", "criterion=[dense,lost_output]")}

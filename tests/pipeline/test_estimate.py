"""What `headscope run` says at its start."""

import json

import pytest
import yaml

from headscope.pipeline.plan import estimate as module
from headscope.pipeline.plan.batches import batches
from headscope.pipeline.plan.costs import START, work
from headscope.pipeline.plan.estimate import estimate
from headscope.pipeline.store import provenance


def missing(plan) -> set[str]:
    return {node.address for node in plan}


def finish(plan, node, seconds: float) -> None:
    """Write what tells how long a job took; its parents as well."""
    folder = plan.root / plan.folder(node)
    if not folder.exists():
        folder.mkdir(parents=True)
        (folder / "spec.yaml").write_text(yaml.safe_dump(json.loads(node.spec)))
        provenance.write(folder, {"seconds": seconds, "parents": {parent.address: {} for parent in node.parents}})
        for parent in node.parents:
            finish(plan, parent, seconds)


def test_jobs_of_a_stage_take_as_long_as_its_finished_jobs_for_their_work(build, tmp_path):
    plan = build("experiment=smoke", f"results={tmp_path}", "model.device=cuda")
    [dense, other] = plan.nodes["dense"].values()
    assert module._speed(tmp_path, "dense", "cuda") is None
    finish(plan, dense, 3 * work(dense))
    finish(plan, other, 5 * work(other))
    [factor, start] = module._speed(tmp_path, "dense", "cuda")
    assert factor == pytest.approx((3 * work(dense) + 5 * work(other)) / (work(dense) + work(other)))
    assert start == START  # imports are no part of a job's seconds
    assert module._speed(tmp_path, "dense", "cpu") == (1, START)  # a processor is no GPU


def test_a_damaged_folder_tells_nothing(build, tmp_path):
    plan = build("experiment=smoke", f"results={tmp_path}", "model.device=cuda")
    [dense, _] = plan.nodes["dense"].values()
    finish(plan, dense, 3 * work(dense))
    (plan.root / plan.folder(dense) / "provenance.json").write_text("{}")
    assert module._speed(tmp_path, "dense", "cuda") is None


def test_what_nobody_has_measured_is_said_and_not_invented(build, tmp_path):
    plan = build("experiment=smoke", f"results={tmp_path}", "model.device=cuda")
    line = estimate(plan, missing(plan))
    assert "no measured seconds of dense on cuda, evaluation on cuda" in line
    assert "about" not in line


def test_only_jobs_that_will_run_count(build, tmp_path):
    plan = build("experiment=smoke", f"results={tmp_path}")
    figures = {node.address for node in plan.nodes["figures"].values()}
    processes = [batch for batch in batches(plan) if batch.stage == "figures"]
    seconds = round(START * len(processes) + sum(work(node) for node in plan.nodes["figures"].values()))
    done = len(missing(plan)) - len(figures)
    assert estimate(plan, figures, ["-c1"]) == f"about {seconds} s for {len(figures)} jobs ({done} are done)"
    assert estimate(plan, set()) == ""


def test_more_cores_help_as_far_as_jobs_do_not_wait_for_each_other(build, tmp_path):
    plan = build("experiment=default", f"results={tmp_path}")
    speeds = dict.fromkeys(map(module._kind, plan), module.Speed(1, 0))
    times = [module._wall_time(plan, missing(plan), speeds, cores) for cores in (1, 2, 99)]
    assert times[0] == pytest.approx(sum(map(work, plan)))
    assert times[0] / 2 <= times[1] < 0.7 * times[0]
    assert times[2] > max(map(work, plan))


@pytest.mark.parametrize(
    ("options", "cores"), [("-c4", 4), ("--cores 4", 4), ("--cores=4 -k", 4), ("-n --jobs 3", 3), ("-c 8 -c 9", 9)]
)
def test_cores_are_those_of_snakemakes_options(options, cores):
    assert module._cores(options.split()) == cores


@pytest.mark.parametrize("options", ["", "-c all", "--cores", "--configfile c4"])
def test_without_a_number_all_cores_are_used(options, monkeypatch):
    monkeypatch.setattr(module.os, "cpu_count", lambda: 7)
    assert module._cores(options.split()) == 7


def test_on_a_cluster_the_work_is_said_since_nobody_knows_how_many_jobs_run_at_once(build, tmp_path):
    plan = build("experiment=smoke", f"results={tmp_path}")
    assert " of work for " in estimate(plan, missing(plan), ["--workflow-profile", "workflow/profiles/slurm"])

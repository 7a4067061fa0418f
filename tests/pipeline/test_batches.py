"""Batches: which jobs share a process, what a process does with them, and what a mark of an end means."""

import json
import random
from pathlib import Path

import pytest
from toy_nodes import install, write_spec

from headscope import __main__ as cli
from headscope.errors import AssetError
from headscope.pipeline.commands import batch as command
from headscope.pipeline.commands import stage as driver
from headscope.pipeline.plan import batches as batching
from headscope.pipeline.plan.batches import batches, forget_stale, marks, write_batches
from headscope.pipeline.plan.node import key_digest

TWO = ["experiment=smoke", "benchmark.ruler.lengths=[1024,2048]"]


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(command, "PATIENCE", 0.0)


def test_every_job_is_in_one_batch_with_others_of_its_stage_model_and_length(build):
    plan = build(*TWO, "model=tiny,smollm2_135m", "model.dtype=float32")
    cut = batches(plan)
    jobs = [node.address for batch in cut for node in batch.nodes]
    assert len(jobs) == len(set(jobs)) == len(list(plan))
    assert len({batch.name for batch in cut}) == len(cut)
    for batch in cut:
        specs = [json.loads(node.spec) for node in batch.nodes]
        assert {node.stage for node in batch.nodes} == {batch.stage}
        assert len({spec.get("length") for spec in specs}) == 1
        assert len({"smollm2" in node.name for node in batch.nodes}) == 1


def test_figures_share_a_process_with_others_that_read_the_same_and_are_spread_over_several(build):
    drawing = [
        batch for batch in batches(build("experiment=smoke", "window.recent=64,128")) if batch.stage == "figures"
    ]
    for batch in drawing:
        assert len({tuple(parent.address for parent in node.parents) for node in batch.nodes}) == 1
    assert sorted(len(batch.nodes) for batch in drawing) == [3, 3, 4, 4]


def test_no_batch_waits_for_one_that_waits_for_it(build):
    plan = build(*TWO)
    cut = batches(plan)
    of = {node.address: batch.name for batch in cut for node in batch.nodes}
    seen = set()
    for batch in cut:  # in the order of the stages
        parents = {of[parent.address] for node in batch.nodes for parent in node.parents}
        assert parents <= seen
        seen.add(batch.name)


def test_batches_are_of_about_the_same_work_and_of_no_more_than_the_limit(build, monkeypatch):
    plan = build("experiment=smoke", "benchmark.ruler.tasks=[niah_single_1,niah_multikey_2,fwe,vt,niah_single_2]")
    works = iter(batching.SECONDS * share for share in (1, 0.3, 1.5, 0.3, 0.6))
    nodes = list(plan.nodes["dense"].values())
    monkeypatch.setattr(batching, "work", dict(zip(nodes, works, strict=True)).get)
    parts = [[node.name for node in part] for part in batching._cut(nodes)]
    assert [name for part in parts for name in part] == [node.name for node in nodes]
    assert [len(part) for part in parts] == [1, 1, 1, 2]
    monkeypatch.setattr(batching, "work", lambda _: 1.0)
    assert len(list(batching._cut(nodes))) == 1
    monkeypatch.setattr(batching, "work", lambda _: 100.0)
    assert len(list(batching._cut(nodes))) == len(nodes)


def jobs_of(results: Path, count: int) -> list[dict]:
    """Jobs of the toy stage, without parents."""
    specs = [{"kind": "data", "number": number} for number in range(count)]
    code = driver.code_digest(*driver.modules("assets", specs[0]))
    names = [f"job-{spec['number']}--{key_digest('assets', spec, [], code)}" for spec in specs]
    outs = [str(results / "assets" / name) for name in names]
    return [{"stage": "assets", "spec": spec, "out": out, "parents": []} for spec, out in zip(specs, outs, strict=True)]


def write(results: Path, jobs: list[dict]) -> Path:
    file = results / ".jobs/assets/three--0123456789.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(jobs))
    return file


def test_a_batch_makes_what_is_not_done_and_marks_its_end(tmp_path, monkeypatch):
    made = []
    install(monkeypatch, lambda spec, out, parents: (made.append(spec["number"]), write_spec(spec, out, parents)))
    jobs = jobs_of(tmp_path, 3)
    file = write(tmp_path, jobs[1:2])
    assert cli.main(["batch", str(file)]) == 0
    write(tmp_path, random.sample(jobs, 3))
    assert cli.main(["batch", str(file)]) == 0
    assert made[0] == 1 and sorted(made) == [0, 1, 2]
    assert file.with_suffix(".done").is_file()
    Path(jobs[2]["out"], "manifest.json").write_text("damaged")
    assert cli.main(["batch", str(file)]) == 0
    assert made[3:] == [2]


def test_a_job_that_fails_keeps_no_other_from_running(tmp_path, monkeypatch, capsys):
    def fail(spec, out, parents):
        if spec["number"] < 2:
            raise [AssetError("the file x is damaged; fetch it again"), ZeroDivisionError("a bug")][spec["number"]]
        write_spec(spec, out, parents)

    install(monkeypatch, fail)
    jobs = jobs_of(tmp_path, 3)
    file = write(tmp_path, jobs)
    assert cli.main(["batch", str(file)]) == 1
    assert [Path(job["out"]).exists() for job in jobs] == [False, False, True]
    assert not file.with_suffix(".done").exists()
    said = capsys.readouterr().err
    assert said.startswith("headscope: the file x is damaged; fetch it again\n") and "ZeroDivisionError: a bug" in said


def test_a_file_that_lists_no_jobs_is_one_error(tmp_path, capsys):
    for text in ("", "{}", "[]", '[{"stage": "dense"}]'):
        file = tmp_path / "jobs.json"
        file.write_text(text)
        assert cli.main(["batch", str(file)]) == 2
        assert f"{file} is no list of jobs" in capsys.readouterr().err


def test_marks_of_what_is_not_done_any_more_go_unless_they_are_new(build, tmp_path):
    plan = build("experiment=smoke", f"results={tmp_path}/results")
    cut = batches(plan)
    write_batches(plan, cut)
    paths = [tmp_path / "results" / f"{batch.path}.done" for batch in cut]
    for path in paths[:3]:
        assert json.loads(path.with_suffix(".json").read_text())
        path.touch()
    before = marks(plan)
    assert sorted(before) == sorted(paths[:3])
    paths[3].touch()
    unfinished = [cut[1].nodes[-1].address, cut[3].nodes[0].address]
    forget_stale(before, cut, unfinished)
    assert [path.exists() for path in paths[:4]] == [True, False, True, True]

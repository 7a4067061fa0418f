"""Finished folders become offline runs that can be read back; whatever fails is a warning, and soon."""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from matplotlib.figure import Figure
from wandb_file import OfflineRun

from headscope.pipeline.stages import track
from headscope.pipeline.store.parents import Parents
from headscope.pipeline.store.tables import PromptMargins, PromptMasses
from headscope.pipeline.tracking.record import read_record

MADE_BY = {"git": {"commit": "1234abcd", "dirty": False}, "packages": {"torch": "2.13.0"}}
EVALUATION_SPEC = {"task": "fwe", "length": 1024, "criteria": {"dense": {"kind": "dense"}}, "targets": [0.5]}


@pytest.fixture(autouse=True, scope="module")
def no_login(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Neither a login nor a home of ours; returns the empty home."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE", "NETRC"):
            patch.delenv(name, raising=False)
        patch.setenv("HOME", str(home))
        patch.setenv("WANDB_INIT_TIMEOUT", "2")
        patch.chdir(home)
        yield home


def finished(results: Path, stage: str, key: str, spec: dict[str, Any], write: Callable[[Path], object]) -> Path:
    """Make a folder as a stage and the driver do."""
    folder = results / stage / key
    folder.mkdir(parents=True)
    write(folder)
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    provenance = {"files": files, "seconds": 12.5, "peak_memory_mib": 300.0, "python": "3.11.7", **MADE_BY}
    parents = {f"assets/{asset.name}": {} for asset in (results / "assets").glob("*")}
    (folder / "provenance.json").write_text(json.dumps({**provenance, "parents": parents}))
    return folder


def make_evaluation(results: Path) -> Path:
    rows = [
        ("dense", float("nan"), "a b c", 100.0, 0.0, 0.0),
        ("dense", float("nan"), "a b", 50.0, 0.0, 0.0),
        ("qada", 0.5, "a", 30.0, 0.5, 0.25),
        ("qada", 0.5, "", 0.0, 0.75, 0.5),
    ]
    table = pd.DataFrame(rows, columns=["criterion", "target", "text", "score", "sparsity", "sparsity_group"])

    def write(folder: Path) -> None:
        more = {"kv_bytes": 0.5, "tokens": [[1, 2]] * 4, "sparsity_layer": [[0.5]] * 4, "stop": "eos"}
        table.assign(**more).to_parquet(folder / "rows.parquet")
        pd.DataFrame({"seconds": [1.5, 2.5]}).to_parquet(folder / "seconds.parquet")

    return finished(results, "evaluation", "fwe-1024--00000000e0", EVALUATION_SPEC, write)


def make_calibration(results: Path) -> Path:
    text = json.dumps({"criterion": "qada", "targets": {}, "sparsity": {"0.5": 0.52, "0.8": 0.79}})
    return finished(
        results,
        "calibration",
        "qada-1024--00000000c0",
        {"criterion": "qada"},
        lambda folder: (folder / "calibration.json").write_text(text),
    )


def make_assets(results: Path) -> None:
    """Make a text and a model, from which all that follow are made."""
    for name, kind in (("prose", "packaged"), ("small", "model")):
        spec = {"name": name, "kind": kind}
        finished(results, "assets", f"{name}--0000000000", spec, lambda folder: (folder / "manifest.json").touch())


def make_masses(results: Path) -> Path:
    """Make two prompts of one layer with two heads, whose window holds 3/4 and 1/4 of the mass."""
    three, one = float(np.log(3)), 0.0
    place = {"layer": np.array([0]), "query": np.array([9])}
    cells = [("evaluation", [[three, one]], [[one, three]]), ("calibration", [[three, three]], [[one, one]])]

    def write(folder: Path) -> None:
        tables = [
            PromptMasses("p", split, **place, segment=np.array(["answer"]), local=np.array(local),
                         bulk=np.array(bulk), bulk_size=np.array([7])).table()
            for split, local, bulk in cells
        ]  # fmt: skip
        write_groups(folder / "masses.parquet", tables)

    return finished(results, "oracle", "fwe-1024--00000000a0", {"task": "fwe"}, write)


def make_margins(results: Path) -> Path:
    """Make margins of two criteria on a query of two heads, which would lose 1/2 and 1/4 of their outputs."""
    place = {"layer": np.array([0]), "query": np.array([9]), "margin": np.zeros((1, 2))}
    exact, lost = np.log([[3.0, 1.0]]), np.log([[0.5, 0.25]])

    def write(folder: Path) -> None:
        tables = [
            PromptMargins("p", "evaluation", **place, criterion=name, exact=exact, lost=lost).table()
            for name in ("lost_output", "qada")
        ]
        write_groups(folder / "margins.parquet", tables)

    return finished(results, "margins", "fwe-1024--00000000b0", {"task": "fwe"}, write)


def write_groups(file: Path, tables: list[pa.Table]) -> None:
    with pq.ParquetWriter(file, tables[0].schema) as writer:
        for table in tables:
            writer.write_table(table)


def make_figure(results: Path) -> Path:
    def write(folder: Path) -> None:
        pd.DataFrame({"x": [0, 1], "y": [0.5, 1.5]}).to_csv(folder / "roc.csv", index=False)
        Figure(figsize=(1, 1)).savefig(folder / "roc.png")

    return finished(results, "figures", "roc-default--00000000f0", {"figure": "roc"}, write)


def replay(results: Path, folders: list[Path], mode: str = "offline") -> dict[str, Any]:
    """Run the stage; return what it says was tracked."""
    out = results / "track" / "study"
    out.mkdir(parents=True, exist_ok=True)
    track.run({"experiment": "study", "project": "heads", "mode": mode}, out, Parents(folders))
    return json.loads((out / "tracked.json").read_text())


@dataclass
class Study:
    """Nodes that were replayed, and their runs read back, by stage."""

    folders: dict[str, Path]
    runs: dict[str, OfflineRun]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    results = tmp_path_factory.mktemp("results")
    make_assets(results)
    makers = (make_evaluation, make_calibration, make_masses, make_margins, make_figure)
    folders = [make(results) for make in makers]
    tracked = replay(results, folders)
    assert tracked["warnings"] == []
    runs = [OfflineRun(results / "wandb" / tracked["runs"][folder.name]) for folder in folders]
    stages = [folder.parent.name for folder in folders]
    return Study(dict(zip(stages, folders, strict=True)), dict(zip(stages, runs, strict=True)))


@pytest.fixture
def calibration(tmp_path: Path) -> Path:
    return make_calibration(tmp_path)


def test_a_node_is_one_run_of_its_experiments_group(study: Study) -> None:
    assert all(run.run.run_group == "study" and run.run.project == "heads" for run in study.runs.values())
    assert all(run.finished for run in study.runs.values())
    run = study.runs["evaluation"]
    assert (run.run.run_id, run.run.job_type) == ("00000000e0", "evaluation")
    assert {name: run.config[name] for name in EVALUATION_SPEC} == EVALUATION_SPEC


def test_runs_of_one_task_and_length_have_different_names(study: Study) -> None:
    names = [study.runs[stage].run.display_name for stage in ("evaluation", "oracle", "margins")]
    assert names == [f"fwe-1024--00000000{digest}" for digest in ("e0", "a0", "b0")]


def test_a_run_says_which_model_code_and_packages_made_it(study: Study) -> None:
    for run in study.runs.values():
        assert run.config["model"] == "small" and run.config["python"] == "3.11.7"
        assert {name: run.config[name] for name in MADE_BY} == MADE_BY
    assert list(study.runs["oracle"].run.tags) == ["oracle", "small", "fwe", "study"]
    assert list(study.runs["calibration"].run.tags) == ["calibration", "small", "study"]


def test_masses_and_margins_have_means_over_pairs(study: Study) -> None:
    masses, margins = study.runs["oracle"].history, study.runs["margins"].history
    assert masses["local_share/evaluation"] == pytest.approx(0.5) and masses["long_share@0.5/evaluation"] == 0.5
    assert masses["local_share/calibration"] == pytest.approx(0.75) and masses["long_share@0.5/calibration"] == 0
    for name in ("lost_output", "qada"):
        assert margins[f"lost_output/{name}/evaluation"] == pytest.approx(0.375)
        assert margins[f"local_share/{name}/evaluation"] == pytest.approx(0.625)


def test_an_evaluation_has_its_means_and_every_text(study: Study) -> None:
    run = study.runs["evaluation"]
    assert run.history["score/dense"] == 75 and run.history["score/qada@0.5"] == 15
    assert run.history["sparsity/qada@0.5"] == 0.625 and run.history["sparsity_group/qada@0.5"] == 0.375
    rows = run.table("rows")
    assert "tokens" not in rows["columns"]
    assert [row[rows["columns"].index("text")] for row in rows["data"]] == ["a b c", "a b", "a", ""]
    assert [row[0] for row in run.table("means")["data"]] == ["dense", "qada"]


def test_every_run_has_the_time_and_memory_of_its_job(study: Study) -> None:
    assert {run.history["seconds"] for run in study.runs.values()} == {12.5}
    assert {run.history["peak_memory_mib"] for run in study.runs.values()} == {300}
    assert study.runs["evaluation"].history["evaluation_seconds"] == 4


def test_a_calibration_has_the_sparsity_that_each_target_reaches(study: Study) -> None:
    assert study.runs["calibration"].history["sparsity@0.8"] == 0.79
    assert [row[0] for row in study.runs["calibration"].table("sparsity")["data"]] == [0.5, 0.8]


def test_a_figure_has_its_picture_and_the_numbers_behind_it(study: Study) -> None:
    run = study.runs["figures"]
    assert run.table("roc_table")["data"] == [[0, 0.5], [1, 1.5]]
    pictures = list((run.folder / "files" / "media" / "images").glob("roc*.png"))
    assert [path.read_bytes() for path in pictures] == [(study.folders["figures"] / "roc.png").read_bytes()]


def test_files_are_referred_to_by_path_and_sha256_and_never_copied(study: Study) -> None:
    run, folder = study.runs["evaluation"], study.folders["evaluation"]
    (artifact,) = [artifact for artifact in run.artifacts if artifact.type == "evaluation"]
    files = read_record(folder).files
    assert {entry.path: entry.ref for entry in artifact.manifest.contents} == {
        name: (folder / name).as_uri() for name in files
    }
    assert json.loads(artifact.metadata)["sha256"] == files
    data = (folder / "rows.parquet").read_bytes()
    assert not [path for path in run.folder.parent.rglob("*") if path.is_file() and path.read_bytes() == data]


def test_the_client_writes_under_the_results_alone(study: Study, no_login: Path) -> None:
    assert len(study.runs) == 5 and not any(no_login.iterdir())


def test_a_node_that_is_tracked_again_replaces_its_offline_run(tmp_path: Path, calibration: Path) -> None:
    replay(tmp_path, [calibration])
    tracked = replay(tmp_path, [calibration])
    found = [path.name for path in (tmp_path / "wandb").glob("offline-run-*")]
    assert found == list(tracked["runs"].values())


def test_a_damaged_folder_is_a_warning_and_the_others_are_tracked(
    tmp_path: Path, calibration: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = make_evaluation(tmp_path)
    (evaluation / "rows.parquet").write_bytes(b"damaged")
    tracked = replay(tmp_path, [evaluation, calibration])
    assert list(tracked["runs"]) == [calibration.name]
    assert evaluation.name in capsys.readouterr().err


def test_online_without_a_key_warns_and_tracks_offline(
    tmp_path: Path, calibration: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracked = replay(tmp_path, [calibration], mode="online")
    assert "no WANDB_API_KEY" in capsys.readouterr().err
    assert OfflineRun(tmp_path / "wandb" / tracked["runs"][calibration.name]).run.run_id == "00000000c0"


def test_online_without_a_network_warns_and_tracks_offline(
    tmp_path: Path, calibration: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    tracked = replay(tmp_path, [calibration], mode="online")
    assert "online tracking of 1 folders failed" in capsys.readouterr().err
    assert tracked["runs"][calibration.name].startswith("offline-run-")


def test_a_killed_tracker_is_a_warning(tmp_path: Path, calibration: Path, capsys: pytest.CaptureFixture[str]) -> None:
    thread = threading.Thread(target=replay, args=(tmp_path, [calibration]))
    thread.start()
    while not (children := psutil.Process().children()):
        time.sleep(0.01)
    for child in children:
        child.kill()
    thread.join()
    tracked = json.loads((tmp_path / "track" / "study" / "tracked.json").read_text())
    assert tracked["runs"] == {}
    assert "status -9" in tracked["warnings"][0] and "status -9" in capsys.readouterr().err

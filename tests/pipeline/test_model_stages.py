"""The stages that run a model, on the smoke experiment's random one: in one process, so that torch loads once."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from headscope.benchmarks.scoring import Score
from headscope.heads.calibration.maps import MarginMap
from headscope.pipeline.commands import stage
from headscope.pipeline.plan import plan
from headscope.pipeline.plan.node import Node
from headscope.pipeline.stages import evaluation, oracle
from headscope.pipeline.store import provenance
from headscope.pipeline.store.tables import read_estimates, read_margins, read_masses
from headscope.pipeline.store.verify import verify
from headscope.pipeline.store.verify_copies import cell_files, verify_cell

ROOT = Path(__file__).parents[2]
OVERRIDES = ["experiment=smoke", "benchmark.ruler.lengths=[640]"]
ADAPTIVE = ("oracle", "qada", "qada_random_words")


def make(node: Node, results: Path) -> Path:
    """Run one node, unless it is there."""
    out = results / node.address
    if not out.exists():
        stage.run(node.stage, json.loads(node.spec), out, [results / parent.address for parent in node.parents])
    return out


def nodes(stage_name: str, *overrides: str, **filters) -> list[Node]:
    found = plan.build([*OVERRIDES, *overrides], ROOT).nodes[stage_name].values()
    return [node for node in found if all(json.loads(node.spec).get(k) == v for k, v in filters.items())]


def copied(results: Path, tmp_path: Path, without: str = "") -> Path:
    """The results in a folder of the test's own, without the cells of one kind."""
    shutil.copytree(results, tmp_path / "results", ignore=shutil.ignore_patterns(without) if without else None)
    return tmp_path / "results"


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """All nodes of the smoke experiment but figures."""
    folder = tmp_path_factory.mktemp("results")
    for node in plan.build(OVERRIDES, ROOT):
        if node.stage != "figures":
            make(node, folder)
    return folder


def test_a_flipped_byte_in_any_file_of_any_stage_and_in_any_cell_is_named(results: Path, tmp_path: Path) -> None:
    mine = copied(results, tmp_path)
    planned = plan.build(OVERRIDES, ROOT)
    folders = {stage_name: next(iter(of.values())).address for stage_name, of in planned.nodes.items() if of}
    for folder in (mine / address for stage_name, address in folders.items() if stage_name != "figures"):
        assert list(verify(folder)) == []
        for file in (path for path in folder.rglob("*") if path.is_file()):
            with flipped(file):
                assert list(verify(folder)), file
    for cell in cell_files(mine):
        assert list(verify_cell(cell)) == []
        with flipped(cell):
            assert list(verify_cell(cell)), cell


@contextmanager
def flipped(file: Path) -> Iterator[None]:
    """Flip a bit in the middle of a file, and leave its times as they are."""
    content, stat = file.read_bytes(), file.stat()
    middle = len(content) // 2
    file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    provenance._read.cache_clear()  # of this process, which has read it before
    yield
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def rows_of(results: Path, task: str, *overrides: str) -> list[dict]:
    [node] = nodes("evaluation", *overrides, task=task)
    return pq.read_table(make(node, results) / "rows.parquet").to_pylist()


def test_every_criterion_and_target_has_a_row_for_every_evaluation_prompt(results: Path) -> None:
    rows = rows_of(results, "fwe")
    counted = {}
    for row in rows:
        counted.setdefault(row["prompt"], []).append((row["criterion"], row["target"]))
    assert len(counted) == 2 and {len(set(pairs)) for pairs in counted.values()} == {2 + 5 * 5}
    assert all(0 <= row["score"] <= 100 and 0 <= row["sparsity"] <= 1 and row["queries"] > 0 for row in rows)
    assert all(np.mean(row["sparsity_layer"]) == pytest.approx(row["sparsity"], abs=1e-6) for row in rows)


def test_the_dense_row_equals_the_dense_answer(results: Path) -> None:
    for task in ("fwe", "niah_single_1"):
        [node] = nodes("dense", task=task)
        answers = {row["id"]: row for row in pq.read_table(make(node, results) / "answers.parquet").to_pylist()}
        for row in rows_of(results, task):
            if row["criterion"] == "dense":
                assert (row["tokens"], row["stop"]) == (
                    answers[row["prompt"]]["tokens"],
                    answers[row["prompt"]]["stop"],
                )


def test_masses_and_estimates_are_finite_and_in_the_same_order(results: Path) -> None:
    [node] = nodes("oracle", task="fwe")
    folder = make(node, results)
    for name in ("gaussian_prompt", "gaussian_random_words"):
        masses = pq.read_table(folder / "masses.parquet", columns=["prompt", "layer", "query"])
        assert masses.equals(pq.read_table(folder / "estimates" / f"{name}.parquet", columns=masses.column_names))
    for split, prompts in (("evaluation", 2), ("calibration", 2)):
        found = list(read_masses(folder, split))
        assert len(found) == prompts
        for masses in found:
            assert np.isfinite(masses.local).all() and np.isfinite(masses.bulk).all() and (masses.bulk_size > 0).all()
            assert {*masses.segment} >= {"question", "prefix"}


def test_the_prompts_own_moments_predict_better_than_random_words(results: Path) -> None:
    [node] = nodes("oracle", task="niah_single_1")
    folder, errors = make(node, results), {}
    for name in ("gaussian_prompt", "gaussian_random_words"):
        masses = list(read_masses(folder, "evaluation"))
        found = read_estimates(folder, name, {m.prompt for m in masses})
        errors[name] = np.mean([np.abs(found[m.prompt] - m.bulk).mean() for m in masses])
    assert errors["gaussian_prompt"] < errors["gaussian_random_words"]


def test_moments_of_prose_are_of_a_passage_as_long_as_the_prompt(results: Path, tmp_path: Path) -> None:
    mine, found = copied(results, tmp_path), []
    for seed in (1, 2):
        overrides = ("criterion=[qada_prose]", f"seed={seed}")
        [node] = nodes("moments", *overrides)
        for parent in node.parents:
            make(parent, mine)
        moments = load_file(make(node, mine) / "moments.safetensors")
        assert set(moments["count"].tolist()) == {640 - 16}  # without the sink
        found.append(moments["mean"])
    assert not torch.equal(*found)


@pytest.mark.parametrize("criterion", ADAPTIVE)
def test_thresholds_reach_their_targets_on_the_calibration_prompts(results: Path, criterion: str) -> None:
    [node] = nodes("calibration", criterion=criterion)
    targets = json.loads((make(node, results) / "calibration.json").read_text())["targets"]
    estimator = json.loads(node.spec)["estimator"]
    for target, found in targets.items():
        shares = []
        for parent in node.parents:
            for masses in read_masses(results / parent.address, "calibration"):
                bulk = masses.bulk
                if estimator:
                    bulk = read_estimates(results / parent.address, estimator, {masses.prompt})[masses.prompt]
                shares.append((masses.local - bulk >= found["threshold"]).mean())
        assert np.mean(shares) == pytest.approx(float(target), abs=1e-3)


def test_static_rankings_keep_the_target_share_of_heads_local(results: Path) -> None:
    for node in nodes("calibration", kind="static"):
        for target, found in json.loads((make(node, results) / "calibration.json").read_text())["targets"].items():
            long = np.array(found["long"])
            assert long.sum() == long.size - round(float(target) * long.size)


def test_calibration_shares_nothing_with_evaluation_but_static_oracle(results: Path, tmp_path: Path) -> None:
    mine = copied(results, tmp_path)
    before = {node.key: (mine / node.address / "calibration.json").read_text() for node in nodes("calibration")}
    for node in nodes("oracle"):
        _scramble_evaluation_rows(mine / node.address / "masses.parquet", "local")
        for name in ("gaussian_prompt", "gaussian_random_words"):
            _scramble_evaluation_rows(
                mine / node.address / "estimates" / f"{name}.parquet", "bulk", mine / node.address
            )
        files = provenance.hash_files(mine / node.address)  # as if the stage had made these
        provenance.write(mine / node.address, {**provenance.read(mine / node.address), "files": files})
    for node in nodes("calibration"):
        shutil.rmtree(mine / node.address)
        after = (make(node, mine) / "calibration.json").read_text()
        same = json.loads(after)["targets"] == json.loads(before[node.key])["targets"]
        criterion = json.loads(node.spec)["criterion"]
        assert same is (criterion != "static_oracle")
        if criterion == "oracle":  # what it reaches is that of the evaluated prompts
            assert json.loads(after)["sparsity"] != json.loads(before[node.key])["sparsity"]


def _scramble_evaluation_rows(file: Path, column: str, folder: Path | None = None) -> None:
    """Reverse the heads' masses of every evaluation prompt and shift them, row group by row group."""
    parquet = pq.ParquetFile(file)
    groups = [parquet.read_row_group(index) for index in range(parquet.num_row_groups)]
    evaluated = {m.prompt for m in read_masses(folder or file.parent, "evaluation")}
    writer = pq.ParquetWriter(file, groups[0].schema)
    for table in groups:
        if table["prompt"][0].as_py() in evaluated:
            index = table.column_names.index(column)
            changed = [
                [value + 3.0 * head for head, value in enumerate(values)] for values in table[column].to_pylist()
            ]
            column_type = table.schema.field(column).type
            table = table.set_column(index, column, pa.array(changed, column_type))
        writer.write_table(table)
    writer.close()


def test_static_is_ranked_by_the_other_tasks_and_static_oracle_by_the_evaluated_one() -> None:
    for node in nodes("calibration", kind="static"):
        spec = json.loads(node.spec)
        tasks = {json.loads(parent.spec)["task"] for parent in node.parents}
        own = {"other_tasks": {"fwe", "niah_single_1"} - {spec["task"]}, "evaluation": {spec["task"]}}
        assert tasks == own[spec["calibrated_on"]]


class Counter:
    """Counts the rows that the engine decodes, and may fail at a call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fail_at: int = 0):
        self.batches, self.fail_at, self.decode = [], fail_at, evaluation.answer_prompts
        monkeypatch.setattr(evaluation, "answer_prompts", self)

    def __call__(self, model, prompts, criteria, *rest):
        if len(self.batches) + 1 == self.fail_at:
            raise KeyboardInterrupt
        self.batches += [sum(group.count for group in criteria)] * len(prompts)
        return self.decode(model, prompts, criteria, *rest)


def test_an_interrupted_evaluation_keeps_its_cells_and_ends_byte_for_byte_as_an_undisturbed_one(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [node] = nodes("evaluation", task="fwe")
    undisturbed = (results / node.address / "rows.parquet").read_bytes()
    mine = copied(results, tmp_path, without="evaluation")
    monkeypatch.setattr(evaluation, "TOGETHER", 27)  # prompts one by one, where both decoded together before
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        Counter(patch, fail_at=2)
        make(node, mine)
    assert not (mine / node.address).exists() and list((mine / "evaluation").iterdir()) == []
    counter = Counter(monkeypatch)
    make(node, mine)
    assert counter.batches == [27]
    assert (mine / node.address / "rows.parquet").read_bytes() == undisturbed


def test_one_target_more_computes_its_own_rows_alone(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, counter = copied(results, tmp_path), Counter(monkeypatch)
    override = "calibration.targets=[0.3,0.5,0.65,0.8,0.9,0.95]"
    for node in nodes("calibration", override):
        make(node, mine)
    rows = rows_of(mine, "fwe", override)
    # One row for each of five criteria; two static rankings that agree are one text.
    assert all(3 <= batch <= 5 for batch in counter.batches) and len(rows) == 2 * (27 + 5)


def test_a_changed_metric_scores_again_without_new_text(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, counter = copied(results, tmp_path), Counter(monkeypatch)
    [node] = nodes("evaluation", task="fwe")
    shutil.rmtree(mine / node.address)
    monkeypatch.setattr(evaluation, "score", lambda *_: Score(12.5))
    rows = rows_of(mine, "fwe")
    assert counter.batches == [] and {row["score"] for row in rows} == {12.5}


def test_one_estimator_more_reads_the_masses_that_are_there(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, recorded = copied(results, tmp_path), []
    original = oracle.record_masses

    def counting(model, ids, fed, boundary, window, estimators, chunk):
        recorded.append([estimator.name for estimator in estimators])
        return original(model, ids, fed, boundary, window, estimators, chunk)

    monkeypatch.setattr(oracle, "record_masses", counting)
    [before] = nodes("oracle", task="fwe")
    override = "criterion.qada.estimator.covariance=diagonal"
    [after] = nodes("oracle", override, task="fwe")
    masses = {path: path.stat().st_mtime_ns for path in (mine / "cells/oracle").rglob("masses-*")}
    make(after, mine)
    assert recorded == [["gaussian_prompt"]] * 4
    assert {path: path.stat().st_mtime_ns for path in (mine / "cells/oracle").rglob("masses-*")} == masses
    for name in ("masses.parquet", "score_quantiles.parquet", "estimates/gaussian_random_words.parquet"):
        assert (mine / after.address / name).read_bytes() == (mine / before.address / name).read_bytes()
    changed = "estimates/gaussian_prompt.parquet"
    assert (mine / after.address / changed).read_bytes() != (mine / before.address / changed).read_bytes()


LOST = (
    "criterion=[dense,oracle,lost_output,oracle_output,static_outliers,local_outliers]",
    "criterion.static_outliers.outliers.count=12",
    "criterion.local_outliers.outliers.count=12",
    "criterion.lost_output.outliers.count=12",
    "criterion.oracle_output.outliers.count=12",
)


def test_thresholds_of_recorded_margins_reach_their_targets_on_the_prompts_they_were_fitted_on(
    results: Path, tmp_path: Path
) -> None:
    mine = copied(results, tmp_path)
    for stage_name in ("dense", "probes", "oracle", "margins", "calibration"):
        for node in nodes(stage_name, *LOST):
            make(node, mine)
    for kind in ("lost_output", "oracle_output"):
        [node] = nodes("calibration", *LOST, criterion=kind)
        found = json.loads((mine / node.address / "calibration.json").read_text())
        recorded = [m for parent in node.parents for m in read_margins(mine / parent.address, kind, "calibration")]
        for target, entry in found["targets"].items():
            offsets = dict(zip(entry["map"]["layers"], np.array(entry["map"]["offset"]), strict=True))
            local = [
                (m.margin + np.stack([offsets[x] for x in m.layer]) >= entry["threshold"]).mean() for m in recorded
            ]
            assert abs(np.mean(local) - float(target)) < 0.01
        if kind == "oracle_output":  # its own prediction is the truth, up to the heads' weights
            for margins in recorded:
                predicted = -(margins.margin + np.stack([offsets[x] for x in margins.layer]))
                np.testing.assert_allclose(predicted, margins.lost, rtol=1e-3, atol=1e-3)
    rows = rows_of(mine, "fwe", *LOST)
    names = {"dense", "oracle", "lost_output", "oracle_output", "static_outliers", "local_outliers"}
    assert {row["criterion"] for row in rows} == names


def test_a_static_list_with_outliers_ranks_heads_by_the_exact_share_of_that_window(
    results: Path, tmp_path: Path
) -> None:
    mine = copied(results, tmp_path)
    for stage_name in ("dense", "probes", "margins"):
        for node in nodes(stage_name, *LOST):
            make(node, mine)
    for node in nodes("calibration", *LOST, criterion="static_outliers"):
        [parent] = node.parents
        assert parent.stage == "margins"
        found = json.loads((make(node, mine) / "calibration.json").read_text())["targets"]["0.8"]
        recorded = list(read_margins(mine / parent.address, "static_outliers", "calibration"))
        assert all((m.margin == m.exact).all() for m in recorded)
        odds = np.concatenate([m.exact for m in recorded])
        layers = np.concatenate([m.layer for m in recorded])
        threshold = np.quantile(odds, 0.2)
        shares = np.stack([(odds[layers == layer] < threshold).mean(0) for layer in found["layers"]])
        long = np.array(found["long"], dtype=bool)
        assert shares[long].min() >= shares[~long].max() - 0.02


RECORDED = (
    "criterion=[dense,qada,lost_output]",
    "+outliers@criterion.qada.outliers=recent",
    "criterion.qada.outliers.count=12",
    "criterion.lost_output.outliers.count=12",
    "calibration.targets=[0.3,0.8]",
)


def calibrated(results: Path, *overrides: str, **filters) -> tuple[Node, dict]:
    """A calibration node and what it found."""
    [node] = nodes("calibration", *overrides, **filters)
    return node, json.loads((make(node, results) / "calibration.json").read_text())


@pytest.fixture(scope="module")
def fitted(results: Path, tmp_path_factory) -> Path:
    """The smoke experiment's results and those of two criteria whose margins are recorded."""
    mine = copied(results, tmp_path_factory.mktemp("fitted"))
    for node in plan.build([*OVERRIDES, *RECORDED], ROOT):
        if node.stage != "figures":
            make(node, mine)
    return mine


@pytest.mark.parametrize("criterion", ["qada", "lost_output"])
def test_calibrated_margins_reach_the_targets_on_the_prompts_they_were_fitted_on(fitted: Path, criterion: str) -> None:
    node, found = calibrated(fitted, *RECORDED, criterion=criterion)
    recorded = [m for parent in node.parents for m in read_margins(fitted / parent.address, criterion, "calibration")]
    assert ("map" in found["targets"]["0.8"]) == (criterion == "lost_output")
    for target, entry in found["targets"].items():
        apply = MarginMap.of(entry).apply
        rows = [
            apply(int(layer), torch.tensor(margin)[None, :, None])
            for m in recorded
            for layer, margin in zip(m.layer, m.margin, strict=True)
        ]
        assert float(target) - 0.01 < (torch.cat(rows) >= entry["threshold"]).double().mean() < float(target) + 0.1


def test_recorded_exact_margins_are_the_oracles_where_there_are_no_outliers(fitted: Path) -> None:
    [node] = nodes("margins", *RECORDED, "criterion.lost_output.outliers=null", task="fwe")
    [oracle_node] = nodes("oracle", *RECORDED, task="fwe")
    recorded = list(read_margins(make(node, fitted), "lost_output", "evaluation"))
    masses = list(read_masses(fitted / oracle_node.address, "evaluation"))
    assert len(recorded) == len(masses) == 2
    for found, exact in zip(recorded, masses, strict=True):
        np.testing.assert_allclose(found.exact, exact.local - exact.bulk, atol=1e-3)
    with_outliers = list(
        read_margins(fitted / nodes("margins", *RECORDED, task="fwe")[0].address, "qada", "evaluation")
    )
    assert all((more.exact >= plain.exact - 1e-3).all() for more, plain in zip(with_outliers, recorded, strict=True))


def test_recorded_criteria_are_decoded_at_about_the_sparsity_that_calibration_saw(fitted: Path) -> None:
    """The share of local labels in decoding is that of the evaluation split's dense answers, nearly."""
    rows = [row for task in ("fwe", "niah_single_1") for row in rows_of(fitted, task, *RECORDED)]
    for criterion in ("qada", "lost_output"):
        _, found = calibrated(fitted, *RECORDED, criterion=criterion)
        for target, sparsity in found["sparsity"].items():
            decoded = [r["sparsity"] for r in rows if (r["criterion"], str(r["target"])) == (criterion, target)]
            assert len(decoded) == 4
            assert np.mean(decoded) == pytest.approx(sparsity, abs=0.05)


def test_fewer_calibration_prompts_are_the_first_ones_of_each_task(results: Path, tmp_path: Path) -> None:
    mine, fewer = copied(results, tmp_path), "calibration.prompts=1"
    for criterion in ("oracle", "qada"):
        (node, found), (_, all_of_them) = (calibrated(mine, *w, criterion=criterion) for w in ((fewer,), ()))
        assert (found["prompts"], all_of_them["prompts"]) == (2, 4)  # of two tasks
        odds = []
        for parent in node.parents:
            first = next(read_masses(mine / parent.address, "calibration"))
            bulk, estimator = first.bulk, json.loads(node.spec)["estimator"]
            if estimator:
                bulk = read_estimates(mine / parent.address, estimator, {first.prompt})[first.prompt]
            odds.append(first.local - bulk)
        for target, entry in found["targets"].items():
            assert np.mean([(o >= entry["threshold"]).mean() for o in odds]) == pytest.approx(float(target), abs=2e-3)
            assert entry["threshold"] != all_of_them["targets"][target]["threshold"]


BYTES = (
    *RECORDED,
    "criterion=[dense,static,qada,lost_output,pages,top_keys]",
    "criterion.qada.unit=group",
    "calibration.rule=kv_bytes",
)


def test_a_budget_of_bytes_is_what_decoding_reads(fitted: Path, tmp_path: Path) -> None:
    """The plan of `kv_bytes` shares all that is measured; what was promised, calibration saw and decoding reads."""
    mine = copied(fitted, tmp_path)
    for stage_name in ("oracle", "margins", "calibration"):
        for node in nodes(stage_name, *BYTES):
            assert stage_name == "calibration" or (mine / node.address).exists()
            make(node, mine)
    rows = {task: rows_of(mine, task, *BYTES) for task in ("fwe", "niah_single_1")}
    for node in nodes("calibration", *BYTES):
        spec, found = json.loads(node.spec), json.loads((mine / node.address / "calibration.json").read_text())
        assert "sparsity" not in found and found["kv_bytes"].keys() == {"0.3", "0.8"}
        of_criterion = [
            row
            for task in ([spec["task"]] if spec["task"] else rows)
            for row in rows[task]
            if row["criterion"] == spec["criterion"]
        ]
        for target, share in found["kv_bytes"].items():
            decoded = [row["kv_bytes"] for row in of_criterion if str(row["target"]) == target]
            assert np.mean(decoded) == pytest.approx(share, abs=0.05)
            # A ranking spends what whole groups of this small model cost.
            assert float(target) - (0.25 if spec["kind"] == "static" else 0.1) < share < float(target) + 0.1
    for row in (row for of_task in rows.values() for row in of_task if row["criterion"] in ("pages", "top_keys")):
        # The window, the index and the keys behind the boundary are read whatever the budget is.
        assert row["kv_bytes"] <= max(row["target"], 0.55) and row["sparsity"] == 0
        assert row["target"] < 0.5 or row["kv_bytes"] > row["target"] - 0.05

"""Tables behind figures: oracle files prompt by prompt, calibrated numbers, clear errors."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import synthetic_tables as fake

from headscope.errors import ConfigError
from headscope.figures.common.node import Setting
from headscope.figures.common.oracle_rows import matrix
from headscope.figures.common.tables import Tables
from headscope.pipeline.store.tables import PromptMasses, estimates_table

AT = Setting("ruler", 1024)


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float32(), 2)])
def test_a_column_of_lists_becomes_a_matrix_whatever_its_chunks(kind):
    column = pa.chunked_array([pa.array([[1.0, 2.0]], kind), pa.array([[3.0, 4.0], [5.0, 6.0]], kind)])
    np.testing.assert_array_equal(matrix(column), [[1, 2], [3, 4], [5, 6]])


def test_blocks_are_the_evaluation_prompts_with_their_estimates_in_row_order(tmp_path):
    node = fake.oracle(tmp_path, "fwe", samples=2, layers=2, heads=3, queries=5)
    masses = pq.read_table(node.folder / "masses.parquet")
    guess = pq.read_table(node.folder / "estimates" / "gaussian_prompt.parquet")
    shuffled = np.random.default_rng(0).permutation(len(masses))
    pq.write_table(masses.take(shuffled), node.folder / "masses.parquet")
    pq.write_table(guess.take(shuffled), node.folder / "estimates" / "gaussian_prompt.parquet")
    blocks = list(Tables([], [node]).blocks(AT, ["gaussian_prompt"]))
    assert len(blocks) == 2
    for block in blocks:
        assert block.local.shape == (10, 3)
        assert np.bincount(block.layer).tolist() == [5, 5]
        assert np.abs(block.estimates["gaussian_prompt"] - block.bulk - 0.6).mean() < 1.0
        assert block.heads.min() == 0 and block.heads.max() == 5


def test_layers_are_numbered_among_the_full_attention_layers(tmp_path):
    node = fake.oracle(tmp_path, "fwe", samples=1, layers=2, heads=3, queries=5)
    masses = pq.read_table(node.folder / "masses.parquet")
    sparse = pa.array(np.asarray(masses["layer"]) * 6 + 5, pa.int16())
    pq.write_table(masses.set_column(2, "layer", sparse), node.folder / "masses.parquet")
    tables = Tables([], [node])
    assert tables.heads(AT) == ([5, 11], 3)
    assert set(next(tables.blocks(AT)).layer) == {0, 1}


def test_the_oracles_threshold_is_that_of_the_nearest_target(tmp_path):
    tables = Tables([], [], fake.calibration(tmp_path, "oracle"))
    assert tables.oracle_threshold(AT, 0.7)[0] == pytest.approx(2.5 - 8 * 0.15)
    assert "0.65" in tables.oracle_threshold(AT, 0.7)[1]


def test_without_a_calibrated_oracle_tau_is_nine_tenths():
    threshold, words = Tables([], []).oracle_threshold(AT, 0.65)
    assert threshold == pytest.approx(np.log(9))
    assert "0.9" in words


def test_a_static_ranking_is_that_of_the_evaluated_task(tmp_path):
    nodes = fake.calibration(tmp_path, "static", tasks=["fwe", "vt"], layers=1, heads=2)
    (nodes[1].folder / "calibration.json").write_text('{"targets": {}}')
    tables = Tables([], [], nodes)
    assert tables.calibrated("static", AT, "vt") == {"targets": {}}
    assert len(tables.calibrated("static", AT, "fwe")["targets"]) == 5
    assert tables.calibrated("static", Setting("ruler", 2048), "fwe") is None


def test_a_benchmark_finds_what_was_calibrated_on_another(tmp_path):
    [threshold] = fake.calibration(tmp_path, "oracle")
    evaluation = fake.evaluation(tmp_path, "lcc")
    evaluation.spec.update(benchmark="longbench", length=7500, calibrating={"benchmark": "ruler", "length": 1024})
    tables, at = Tables([evaluation], [], [threshold]), Setting("longbench", 7500)
    assert tables.calibrated("oracle", at, "lcc") == tables.calibrated("oracle", AT)
    assert "calibrated for sparsity 0.65" in tables.oracle_threshold(at, 0.65)[1]
    assert tables.calibrated("oracle", Setting("longbench", 3500)) is None


def test_a_list_of_the_setting_itself_comes_before_one_of_the_length_it_was_calibrated_at(tmp_path):
    nodes = [*fake.calibration(tmp_path, "static_oracle", ["vt"]),
             *fake.calibration(tmp_path, "static_oracle", ["vt"], length=2048, targets=[0.5])]  # fmt: skip
    evaluation = fake.evaluation(tmp_path, "vt", length=2048)
    evaluation.spec["calibrating"] = {"benchmark": "ruler", "length": 1024}
    calibration = Tables([evaluation], [], nodes).calibrated("static_oracle", Setting("ruler", 2048), "vt")
    assert list(calibration["targets"]) == ["0.5"]


def test_missing_nodes_and_prompts_without_a_bulk_are_named(tmp_path):
    with pytest.raises(ConfigError, match="evaluation nodes"):
        _ = Tables([], []).rows
    with pytest.raises(ConfigError, match="oracle nodes"):
        _ = Tables([], []).settings
    with pytest.raises(ConfigError, match="window covers all keys"):
        list(Tables([], [fake.oracle(tmp_path, "fwe", samples=0, layers=1, heads=2, queries=1)]).blocks(AT))
    no_estimator = fake.oracle(tmp_path / "bare", "fwe", samples=1, layers=1, heads=2, queries=1, estimators={})
    with pytest.raises(ConfigError, match="estimator"):
        Tables([], [no_estimator]).needed_estimators()


def test_tables_as_the_oracle_stage_writes_them_are_read_back(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "estimates").mkdir()
    prompts = []
    for number, split in enumerate(["evaluation", "calibration", "evaluation"]):
        rows = 6 + number
        layer, query = np.arange(rows) % 2, np.arange(rows) // 2
        segment = np.array(["answer"] * rows, dtype=object)
        local, bulk = rng.normal(size=(2, rows, 3)).astype(np.float32)
        prompts.append(PromptMasses(f"{number}", split, layer, query, segment, local, bulk, np.full(rows, 9)))
    masses = [prompt.table() for prompt in prompts]
    guesses = [estimates_table(prompt, prompt.bulk + 1) for prompt in prompts]
    for name, parts in {"masses": masses, "estimates/near": guesses}.items():
        with pq.ParquetWriter(tmp_path / f"{name}.parquet", parts[0].schema) as writer:
            for part in parts:
                writer.write_table(part)
    node = fake.FakeNode(tmp_path, {"benchmark": "ruler", "task": "fwe", "length": 1024, "estimators": {"near": {}}})
    blocks = list(Tables([], [node]).blocks(AT, ["near"]))
    for block, prompt in zip(blocks, [prompts[0], prompts[2]], strict=True):
        np.testing.assert_array_equal(block.local, prompt.local)
        np.testing.assert_array_equal(block.layer, prompt.layer)
        np.testing.assert_allclose(block.estimates["near"], prompt.bulk + 1, rtol=1e-6)

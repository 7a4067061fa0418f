import numpy as np
import pytest

from headscope.models.loading import LoadedModel
from headscope.pipeline.plan.code import closure
from headscope.pipeline.stages import inputs
from headscope.pipeline.store.cells import Cells

ROWS = {"a1": {"text": "x", "tokens": [1, 2]}, "b2": {"text": "y", "sparsity": 0.25}}


def test_rows_come_back_as_they_were_kept(tmp_path) -> None:
    Cells(tmp_path, "evaluation", {"model": "m"}).add_rows("prompt", ROWS)
    assert Cells(tmp_path, "evaluation", {"model": "m"}).rows("prompt") == ROWS


def test_another_context_kind_or_prompt_finds_nothing(tmp_path) -> None:
    Cells(tmp_path, "evaluation", {"model": "m"}).add_rows("prompt", ROWS)
    assert Cells(tmp_path, "evaluation", {"model": "n"}).rows("prompt") == {}
    assert Cells(tmp_path, "dense", {"model": "m"}).rows("prompt") == {}
    assert Cells(tmp_path, "evaluation", {"model": "m"}).rows("other") == {}


def test_shards_of_later_batches_stand_beside_the_first(tmp_path) -> None:
    cells = Cells(tmp_path, "evaluation", {})
    cells.add_rows("p", {"a1": ROWS["a1"]})
    first = sorted((cells.folder / "p").iterdir())
    before = first[0].read_bytes()
    cells.add_rows("p", {"b2": ROWS["b2"]})
    assert cells.rows("p") == ROWS and first[0].read_bytes() == before


def test_the_same_batch_makes_the_same_bytes_under_the_same_name(tmp_path) -> None:
    shards = []
    for root in ("one", "two"):
        cells = Cells(tmp_path / root, "evaluation", {})
        cells.add_rows("p", dict(sorted(ROWS.items(), reverse=root == "two")))
        shards.append([(file.name, file.read_bytes()) for file in (cells.folder / "p").iterdir()])
    assert shards[0] == shards[1]


def test_arrays_come_back_with_shape_and_type_or_not_at_all(tmp_path) -> None:
    cells = Cells(tmp_path, "oracle", {"window": {"sink": 1}})
    arrays = {"bulk": np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::2], "position": np.arange(2, dtype=np.int32)}
    cells.add_arrays("p", "masses-1", arrays)
    found = cells.arrays("p", ["masses-1", "masses-2"])["masses-1"]
    assert found is not None and found["bulk"].dtype == np.float32
    np.testing.assert_array_equal(found["bulk"], arrays["bulk"])
    assert cells.arrays("p", ["masses-2"]) == {}


def test_a_shard_that_could_not_be_written_leaves_nothing(tmp_path) -> None:
    cells = Cells(tmp_path, "evaluation", {})
    with pytest.raises(TypeError):
        cells.add_rows("p", {"a": {"text": object()}})
    assert not cells.folder.exists()


def damages(content: bytes) -> dict[str, bytes]:
    middle = len(content) // 2
    flipped = bytes([content[middle] ^ 1])
    return {"truncated": content[:-1], "empty": b"", "flipped": content[:middle] + flipped + content[middle + 1 :]}


@pytest.mark.parametrize("how", ["truncated", "empty", "flipped"])
def test_a_damaged_cell_is_dropped_alone_and_said_in_one_line(tmp_path, capsys, how) -> None:
    cells = Cells(tmp_path, "evaluation", {})
    cells.add_rows("p", {"a1": ROWS["a1"]})
    cells.add_rows("p", {"b2": ROWS["b2"]})
    for key in ("x", "y"):
        cells.add_arrays("p", key, {"bulk": np.arange(3)})
    for pattern in ("*.json", "x--*.safetensors"):
        file = sorted((cells.folder / "p").glob(pattern))[0]
        file.write_bytes(damages(file.read_bytes())[how])
    assert len(cells.rows("p")) == 1 and set(cells.arrays("p", ["x", "y"])) == {"y"}
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all("is damaged: dropped, and computed again" in line for line in lines)
    assert len(list((cells.folder / "p").iterdir())) == 2


def test_a_damaged_description_is_written_again_though_all_cells_are_there(tmp_path) -> None:
    file = Cells(tmp_path, "evaluation", {"model": "m"}).folder / "context.json"
    Cells(tmp_path, "evaluation", {"model": "m"}).add_rows("prompt", ROWS)
    content = file.read_bytes()
    for damaged in (content[: len(content) // 2], content.replace(b"m", b"n", 1)):
        file.write_bytes(damaged)
        assert Cells(tmp_path, "evaluation", {"model": "m"}).rows("prompt") == ROWS and file.read_bytes() == content
    assert not Cells(tmp_path, "evaluation", {"model": "n"}).folder.exists()


def test_cells_of_another_format_are_not_met(tmp_path, monkeypatch) -> None:
    Cells(tmp_path, "evaluation", {}).add_rows("p", ROWS)
    monkeypatch.setattr("headscope.pipeline.store.cells.FORMAT", 2)
    assert Cells(tmp_path, "evaluation", {}).rows("p") == {}


def test_code_that_loads_a_model_or_encodes_a_prompt_is_part_of_every_context(tmp_path, monkeypatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(inputs, "code_digest", lambda *modules: read.extend(closure(*modules)) or "code")
    loaded = LoadedModel(None, None, "sha", "mine")  # type: ignore[arg-type]
    inputs.open_cells("dense", {}, loaded, tmp_path / "dense" / "a", "headscope.models.generation")
    assert {"headscope.models.attention", "headscope.models.loading", "headscope.benchmarks.encoding"} <= {*read}

"""LongBench's files: read from the zip or a folder, refused with a place and a remedy, and parted by ids."""

from dataclasses import asdict
from zipfile import ZipFile

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st
from longbench_files import data_folder, data_zip, lines, record, records, request

from headscope.benchmarks.longbench.data import read_records
from headscope.benchmarks.longbench.splits import choose, is_calibration
from headscope.errors import AssetError, ConfigError


def test_zip_and_folder_give_the_same_rows(tmp_path):
    rows = records(5)
    from_zip = read_records(data_zip(tmp_path / "data.zip", "qasper", rows), "qasper")
    assert from_zip == read_records(data_folder(tmp_path / "data", "qasper", rows), "qasper")
    assert [row.id for row in from_zip] == [row["_id"] for row in rows]
    assert from_zip[3].context == rows[3]["context"] and from_zip[3].classes == ["class 3", "other"]


def test_rows_of_the_zip_load_as_an_arrow_dataset_without_a_network(tmp_path):
    loaded = read_records(data_zip(tmp_path / "data.zip", "trec", records(4)), "trec")
    table = datasets.Dataset.from_list([asdict(row) for row in loaded])
    assert table["id"][:] == [f"id{number}" for number in range(4)]
    assert table[2]["answers"] == ["answer 2", "another"]


def test_a_row_without_classes_has_none(tmp_path):
    folder = data_folder(tmp_path / "data", "qasper", [record(0, all_classes=None)])
    assert read_records(folder, "qasper")[0].classes == []


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"context": 3}, "field 'context' is a int, not a str"),
        ({"answers": "one"}, "field 'answers' is a str, not a list"),
        ({"answers": []}, "field 'answers' is empty"),
        ({"answers": ["7", None]}, "field 'answers', item 2 is null, not a text"),
        ({"all_classes": [{}]}, "field 'all_classes', item 1 is an object, not a text"),
        ({"length": "long"}, "field 'length' is a str, not a int"),
    ],
)
def test_a_field_of_another_kind_is_refused_with_its_line(tmp_path, changes, complaint):
    folder = data_folder(tmp_path / "data", "qasper", [record(0), record(1, **changes)])
    with pytest.raises(AssetError, match=rf"qasper.jsonl, line 2: {complaint}"):
        read_records(folder, "qasper")


@pytest.mark.parametrize("field", ["input", "context", "answers", "length", "all_classes", "_id"])
def test_a_missing_field_is_refused_with_its_line_empty_lines_counted(tmp_path, field):
    broken = {name: value for name, value in record(1).items() if name != field}
    path = tmp_path / "data.zip"
    with ZipFile(path, "w") as archive:
        archive.writestr("data/qasper.jsonl", lines([record(0)]) + "\n\n" + lines([broken]))
    with pytest.raises(AssetError, match=rf"data.zip: data/qasper.jsonl, line 4 has no field '{field}'; it has "):
        read_records(path, "qasper")


def test_a_broken_line_is_refused_with_its_number(tmp_path):
    folder = data_folder(tmp_path / "data", "qasper", [record(0)])
    with (folder / "qasper.jsonl").open("a") as file:
        file.write('{"input": \n')
    with pytest.raises(AssetError, match=r"qasper.jsonl, line 2 is no JSON .*repair it or fetch the file again"):
        read_records(folder, "qasper")


def test_what_is_not_there_is_named(tmp_path):
    archive = data_zip(tmp_path / "data.zip", "qasper", records(1))
    with pytest.raises(AssetError, match=r"has no member data/trec.jsonl; give the official data.zip"):
        read_records(archive, "trec")
    with pytest.raises(AssetError, match=r"trec.jsonl does not exist"):
        read_records(data_folder(tmp_path / "data", "qasper", records(1)), "trec")
    with pytest.raises(AssetError, match=r"nowhere.zip is neither LongBench's data.zip nor a folder"):
        read_records(tmp_path / "nowhere.zip", "trec")


def test_a_damaged_zip_is_refused(tmp_path):
    archive = data_zip(tmp_path / "data.zip", "qasper", records(20))
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 2])
    with pytest.raises(AssetError, match=r"data.zip is neither LongBench's data.zip nor a folder .*fetch it again"):
        read_records(archive, "qasper")
    archive.write_bytes(content[:100] + b"damage" + content[106:])
    with pytest.raises(AssetError, match=r"data/qasper.jsonl is damaged .*fetch it again"):
        read_records(archive, "qasper")


IDS = st.lists(st.text(max_size=8), unique=True, max_size=60)


@given(IDS, st.integers(0, 9), st.integers(0, 70), st.integers(0, 70))
def test_splits_share_no_row_and_keep_the_order_of_the_file(ids, seed, evaluation, calibration):
    try:
        splits = choose(ids, request("qasper", {}, seed=seed, evaluation=evaluation, calibration=calibration))
    except ConfigError:
        kinds = {is_calibration(name) for name in ids} if calibration else {False for _ in ids}
        assert (evaluation and False not in kinds) or (calibration and True not in kinds)
        return
    assert list(splits) == ["evaluation", "calibration"]
    assert set(splits["evaluation"]).isdisjoint(splits["calibration"])
    for split, most in (("evaluation", evaluation), ("calibration", calibration)):
        pool = [name for name in ids if not calibration or is_calibration(name) == (split == "calibration")]
        pool = pool if calibration or split == "evaluation" else []
        assert splits[split] == sorted(splits[split]) and len(splits[split]) == min(most, len(pool))
        assert {ids[index] for index in splits[split]} <= set(pool)


def test_fewer_rows_are_part_of_more_and_another_order_chooses_the_same():
    ids = [f"id{number}" for number in range(80)]
    fewer, more, turned = (
        {names[i] for i in choose(names, request("qasper", {}, evaluation=count))["evaluation"]}
        for names, count in ((ids, 10), (ids, 30), (ids[::-1], 30))
    )
    assert fewer < more == turned
    other = choose(ids, request("qasper", {}, seed=43, evaluation=10))["evaluation"]
    assert {ids[i] for i in other} != fewer


def test_without_calibration_every_row_is_scored():
    ids = [f"id{number}" for number in range(40)]
    assert choose(ids, request("qasper", {}))["evaluation"] == list(range(40))
    both = choose(ids, request("qasper", {}, calibration=40))
    assert sorted(both["evaluation"] + both["calibration"]) == list(range(40))
    assert 4 < len(both["calibration"]) < 16


def test_a_split_without_rows_is_refused_with_the_remedy():
    scored = [name for name in map(str, range(20)) if not is_calibration(name)]
    with pytest.raises(ConfigError, match=rf"task qasper: none of its {len(scored)} rows is for calibration; set "):
        choose(scored, request("qasper", {}, calibration=2))

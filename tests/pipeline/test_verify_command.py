"""`headscope verify`: what it names, what it deletes, and how it ends."""

import json
import os

import pytest
from toy_nodes import install, make, write_spec

from headscope import __main__ as cli
from headscope.pipeline.plan import plan as planning
from headscope.pipeline.plan.node import Node
from headscope.pipeline.store import provenance
from headscope.pipeline.store.cells import Cells
from headscope.pipeline.store.files import canonical
from headscope.pipeline.store.verify_copies import cell_files, verify_cell, verify_copies


@pytest.fixture
def chain(tmp_path, monkeypatch):
    """Three results, each made from the one before; a plan needs the first two."""
    install(monkeypatch, write_spec)
    specs = {"first": {"kind": "data"}, "second": {"kind": "model"}, "third": {"kind": "hub"}}
    nodes, folders = [], []
    for name, spec in specs.items():
        nodes.append(Node("assets", name, canonical(spec), tuple(nodes[-1:])))
        folders.append(make(tmp_path, name, spec, folders[-1:]))
    plan = planning.Plan(tmp_path, str(tmp_path), [], {"assets": {node.key: node for node in nodes[:2]}}, {})
    monkeypatch.setattr(planning, "build", lambda *_: plan)
    return folders


def verify(capsys, *words):
    status = cli.main(["verify", *words])
    return status, capsys.readouterr().out


def test_sound_results_are_counted(chain, capsys):
    status, text = verify(capsys, "x=1")
    assert status == 0
    assert text.splitlines() == [
        "3 results, 0 cells: 0 damaged, 0 unknown, 0 of older code, 1 in no job of the plan",
        "plan: 2 of 2 present",
    ]


def test_damage_is_named_down_to_every_descendant_with_the_commands_that_repair(chain, capsys):
    first, second, third = chain
    times = (first / "manifest.json").stat()
    (first / "manifest.json").write_text(json.dumps({"kind": "dbta"}))
    os.utime(first / "manifest.json", ns=(times.st_atime_ns, times.st_mtime_ns))
    status, text = verify(capsys, "x=a b")
    assert status == 1
    assert f"damaged  assets/{first.name}: manifest.json has changed since it was made\n" in text
    for folder in (second, third):
        assert f"damaged  assets/{folder.name}: made from damaged assets/{first.name}\n" in text
    assert "plan: 0 of 2 present" in text
    assert "to repair: headscope verify --delete 'x=a b', then headscope run 'x=a b'" in text
    status, text = verify(capsys, "--delete", "x=a b")
    assert status == 0 and "3 deleted; to make them anew: headscope run 'x=a b'" in text
    assert list(first.parent.iterdir()) == []


def test_missing_results_fail(chain, capsys):
    (chain[1] / "provenance.json").unlink()
    for file in chain[1].iterdir():
        file.unlink()
    status, text = verify(capsys)
    assert status == 1 and f"missing  assets/{chain[1].name}\n" in text
    assert text.endswith("plan: 1 of 2 present\nto make what is missing: headscope run\n")


def test_unknown_files_fail_and_are_never_deleted(chain, capsys):
    unknown = [chain[0] / "notes.txt", chain[0].parent / "mine"]
    for path in unknown:
        path.touch()
    status, text = verify(capsys)
    assert status == 1
    assert text.count(": no stage made it") == 2 and text.startswith(f"unknown  assets/{chain[0].name}/notes.txt:")
    verify(capsys, "--delete")
    assert all(path.exists() for path in [*unknown, *chain])


def test_damaged_cells_are_named_and_deleted(chain, tmp_path, capsys):
    Cells(tmp_path, "dense", {}).add_rows("p", {"answer": {"text": "x"}})
    assert verify(capsys)[0] == 0
    for file in cell_files(tmp_path):  # the cell, and the description of its context
        content = file.read_bytes()
        file.write_bytes(content.replace(b"1", b"2").replace(b"x", b"y"))
        status, text = verify(capsys)
        assert status == 1 and f"damaged  {file.relative_to(tmp_path)}: is not what was written" in text
        verify(capsys, "--delete")
        assert not file.exists()
    assert verify(capsys)[0] == 0


def test_cells_of_another_format_are_only_counted(tmp_path, monkeypatch):
    Cells(tmp_path, "dense", {}).add_rows("p", {"answer": {"text": "x"}})
    monkeypatch.setattr("headscope.pipeline.store.cells.FORMAT", 2)
    [folder] = cell_files(tmp_path)
    assert [finding.problem for finding in verify_cell(folder)] == ["holds cells of another format"]


@pytest.fixture
def copied(tmp_path):
    """A finished figure, and its plain-named copies with their marker."""
    figure, plain = tmp_path / "figures" / "roc-1024--0123456789", tmp_path / "figures" / "paper" / "smoke"
    figure.mkdir(parents=True)
    plain.mkdir(parents=True)
    for ending in ("pdf", "png", "csv"):
        for folder in (figure, plain):
            (folder / f"roc.{ending}").write_text(ending)
    provenance.write(figure, provenance.collect(figure, "code", {}, 0.0))
    (plain / "roc--0123456789.key").write_text(f"{figure.name}\n")
    (plain / "report.html").touch()
    assert list(verify_copies(tmp_path)) == []
    return plain


@pytest.mark.parametrize("name", ["roc.png", "roc.pdf", "roc.csv"])
def test_a_changed_or_lost_copy_of_a_figure_is_named(copied, tmp_path, name):
    for change in (lambda file: file.write_text("pnx"), lambda file: file.unlink()):
        change(copied / name)
        [finding] = verify_copies(tmp_path)
        assert finding.problem == f"{name} is not the copy of figures/roc-1024--0123456789"
        assert finding.path == copied / "roc--0123456789.key"


def test_a_marker_that_names_another_figure_and_a_copy_without_marker_are_named(copied, tmp_path):
    marker = copied / "roc--0123456789.key"
    marker.write_text("summary-1024--9876543210\n")
    assert [finding.problem for finding in verify_copies(tmp_path)] == ["does not name the figure that was copied"]
    marker.unlink()
    assert {finding.problem for finding in verify_copies(tmp_path)} == {"is the copy of no figure"}


def test_provenance_that_lost_its_format_is_damage_where_the_plan_needs_the_result(chain, capsys):
    second = chain[1]
    (second / "provenance.json").write_text("{}")
    status, text = verify(capsys, "x=1")
    assert status == 1 and f"damaged  assets/{second.name}: " in text and "plan: 1 of 2 present" in text
    assert verify(capsys, "--delete", "x=1")[0] == 0 and not second.exists()

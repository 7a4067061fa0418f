import pytest
from toy_nodes import install, make, write_spec

from headscope import __main__ as cli
from headscope.pipeline.commands import diff, gc
from headscope.pipeline.commands.run import snakemake
from headscope.pipeline.config import compose
from headscope.pipeline.config.overrides import split
from headscope.pipeline.plan.batches import batches, write_batches
from headscope.pipeline.store.runs import at_work


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(compose, "CACHE", tmp_path / "compose")


@pytest.fixture
def one_experiment(monkeypatch):
    """Let gc plan one experiment alone, which takes seconds less."""
    monkeypatch.setattr(gc, "groups", lambda _: {"experiment": ["smoke"]})


def test_plan_lists_jobs_done_and_missing(tmp_path, capsys):
    assert cli.main(["plan", "experiment=smoke", f"results={tmp_path}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("missing ") for line in lines) == 24
    assert lines[-1].startswith(f"0 of 24 jobs done under {tmp_path}")


@pytest.mark.usefixtures("one_experiment")
def test_gc_lists_first_and_deletes_when_told(tmp_path, monkeypatch, capsys):
    install(monkeypatch, write_spec)
    folder = make(tmp_path, "first", {"kind": "data"})
    assert cli.main(["gc", f"results={tmp_path}"]) == 0
    assert str(folder) in capsys.readouterr().out and folder.exists()
    assert cli.main(["gc", "--delete", f"results={tmp_path}"]) == 0
    assert list((tmp_path / "assets").iterdir()) == []


@pytest.mark.usefixtures("one_experiment")
def test_gc_keeps_what_an_experiment_or_a_named_option_needs(tmp_path, capsys):
    addresses = []
    for words in (["experiment=smoke"], ["experiment=smoke", "window.recent=64"]):
        planned = cli_plan(words)
        addresses += [node.address for node in planned.nodes["oracle"].values()]
    for address in addresses:
        (tmp_path / address).mkdir(parents=True)
        (tmp_path / address / "masses.parquet").touch()
    cli.main(["gc", f"results={tmp_path}"])
    assert capsys.readouterr().out.startswith("     0.0 MiB  ") and len(addresses) == 4
    cli.main(["gc", f"results={tmp_path}", "experiment=smoke window.recent=64"])
    assert capsys.readouterr().out.startswith("0 results")


@pytest.mark.usefixtures("one_experiment")
def test_gc_deletes_lists_and_marks_of_batches_that_no_experiment_has(tmp_path, capsys):
    options = f"results={tmp_path}"
    needed, other = (cli_plan(["experiment=smoke", options, f"window.recent={recent}"]) for recent in (128, 64))
    for plan in (needed, other):
        write_batches(plan, batches(plan))
    paths = {batch.path for batch in batches(needed)}
    stale = {batch.path for batch in batches(other)} - paths
    for path in (*paths, *stale):
        (tmp_path / f"{path}.done").touch()
    with at_work(tmp_path, "a run"):
        assert cli.main(["gc", options]) == 0
        assert "0 files of batches" in capsys.readouterr().out
    assert cli.main(["gc", "--delete", options]) == 0
    assert f"{2 * len(stale)} files of batches deleted" in capsys.readouterr().out and stale
    left = {file.relative_to(tmp_path).as_posix() for file in tmp_path.glob(".jobs/*/*")}
    assert left == {f"{path}{ending}" for path in paths for ending in (".json", ".done")}


@pytest.mark.parametrize("words", [["gc", "--delete"], ["verify", "--delete", "experiment=smoke"]])
@pytest.mark.usefixtures("one_experiment")
def test_nothing_is_deleted_while_a_job_works_on_the_results(tmp_path, monkeypatch, capsys, words):
    install(monkeypatch, write_spec)
    folder = make(tmp_path, "first", {"kind": "data"})
    (folder / "manifest.json").write_text("")
    temporary = folder.with_name(".second--0123456789.abc.tmp")
    temporary.mkdir()
    with at_work(tmp_path, "oracle/x--0123456789"):
        assert cli.main([*words, f"results={tmp_path}"]) == 2
        assert "nothing is deleted, because" in capsys.readouterr().err and folder.exists()
        assert cli.main(["gc", f"results={tmp_path}"]) == 0
        assert temporary.name not in capsys.readouterr().out
    assert cli.main([*words, f"results={tmp_path}"]) == 0 and not folder.exists()


@pytest.mark.usefixtures("one_experiment")
def test_gc_lists_everything_before_it_deletes_anything(tmp_path, monkeypatch, capsys):
    install(monkeypatch, write_spec)
    folders = [make(tmp_path, name, {"kind": "data"}) for name in ("first", "second")]
    monkeypatch.setattr(gc, "delete", lambda *_: pytest.fail("deleted"))
    with pytest.raises(pytest.fail.Exception):
        cli.main(["gc", "--delete", f"results={tmp_path}"])
    text = capsys.readouterr().out
    assert all(f"{folder}\n" in text for folder in folders)


def test_an_experiment_that_cannot_be_planned_keeps_gc_from_deleting(tmp_path, monkeypatch, capsys):
    install(monkeypatch, write_spec)
    folder = make(tmp_path, "first", {"kind": "data"})
    monkeypatch.setattr(gc, "groups", lambda _: {"experiment": ["smoke", "broken"]})
    assert cli.main(["gc", "--delete", f"results={tmp_path}"]) == 2
    assert "broken" in capsys.readouterr().err and folder.exists()


ODD = [
    (["diff", "experiment='x", "b"], "no closing quotation"),
    (["gc", "experiment='x"], "no closing quotation"),
    (["diff", "{folder}", "{folder}/nothing"], "nothing is no folder; diff compares two folders"),
    (["diff", "{folder}", "{folder}"], "is not a finished"),
    (["diff", "{garbled}", "{garbled}"], "spec.yaml cannot be read"),
    (["diff", "a"], "diff compares two"),
    (["verify", "--deleet"], "unknown option --deleet of verify, which knows --help and --delete"),
    (["plan", "-n"], "unknown option -n of plan"),
    (["diff", "-x", "a", "b"], "unknown option -x of diff"),
]


@pytest.mark.parametrize(("words", "message"), ODD)
def test_odd_words_and_folders_are_one_line(tmp_path, capsys, words, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "garbled").mkdir()
    (tmp_path / "garbled" / "spec.yaml").write_bytes(b"\xff: [")
    places = {name: tmp_path / name for name in ("folder", "garbled")}
    assert cli.main([word.format(**places) for word in words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_folders_without_provenance_are_one_line_to_diff(tmp_path, monkeypatch, capsys):
    install(monkeypatch, write_spec)
    folder = make(tmp_path, "first", {"kind": "data"})
    (folder / "provenance.json").write_text("{")
    assert cli.main(["diff", str(folder), str(folder)]) == 2
    assert "provenance.json cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["plan", "verify", "diff", "gc"])
def test_help_says_what_a_command_does(command, capsys):
    assert cli.main([command, "--help"]) == 0
    assert f"`headscope {command}" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["file", "nothing"])
@pytest.mark.usefixtures("one_experiment")
def test_a_results_folder_that_is_none_is_no_traceback(tmp_path, capsys, kind):
    place = tmp_path / "results"
    if kind == "file":
        place.touch()
    assert cli.main(["verify", "-m", "experiment=smoke", f"results={place}"]) == 1
    assert "plan: 0 of 31 present" in capsys.readouterr().out
    assert cli.main(["plan", "-m", "experiment=smoke", f"results={place}"]) == 0
    assert cli.main(["gc", f"results={place}"]) == 0


def cli_plan(words):
    from headscope.pipeline.plan import plan

    return plan.build(words)


def test_diff_of_plans_names_the_option_that_differs(capsys):
    assert cli.main(["diff", "experiment=smoke", "experiment=smoke"]) == 0
    assert capsys.readouterr().out == "no difference\n"
    assert cli.main(["diff", "experiment=smoke", "experiment=smoke window.recent=64"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("oracle fwe 1024:") and "window.recent: 128 -> 64" in line for line in lines)
    assert any(line.startswith("calibration oracle 1024:") and line.endswith("its parents differ") for line in lines)
    assert not any(line.startswith(("assets", "prompts", "dense", "moments")) for line in lines)


def test_diff_of_folders_compares_slices_environments_and_files(tmp_path, monkeypatch):
    install(monkeypatch, write_spec)
    first, second = (make(tmp_path, name, {"kind": "data", "x": name}) for name in ("a", "b"))
    lines = list(diff.folders(first, second))
    assert 'spec x: "a" -> "b"' in lines
    assert any(line.startswith("files manifest.json:") for line in lines)
    assert not any(line.startswith(("packages", "hardware", "python")) for line in lines)


def test_run_shows_the_configuration_of_each_point(capsys):
    assert cli.main(["run", "-m", "experiment=smoke", "seed=1,2", "--cfg", "job"]) == 0
    text = capsys.readouterr().out
    assert "# seed=1\n" in text and "seed: 2\n" in text and "name: smoke\n" in text


def test_run_lists_every_option_with_its_unit_and_range(capsys):
    assert cli.main(["run", "--help"]) == 0
    text = capsys.readouterr().out
    assert "window.recent: last keys" in text and "at least 1 (keys)" in text
    assert "experiment: default, models, paper/llama31_8b" in text


def test_run_refuses_an_option_of_snakemake_before_the_dashes(capsys):
    assert cli.main(["run", "-n", "experiment=smoke"]) == 2
    assert "headscope run -- -n" in capsys.readouterr().err


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["criterion=[dense,qada]"],
        ["criterion=[dense,qada]", "experiment=smoke"],
        ["seed=1,2", "benchmark=[ruler]"],
        ["window={recent: 64}"],
        ["seed=1", "window={recent: 64}", "name='a #b'"],
        ["5"],
    ],
)
def test_snakemake_is_given_overrides_as_they_are_whatever_needs_quoting(overrides):
    from snakemake.cli import parse_config

    command = snakemake(overrides, [])
    assert split(parse_config([command[-1]])["hydra"] or "") == overrides

import shlex

import pytest
from toy_nodes import install, make, write_spec

from headscope import __main__ as cli
from headscope.pipeline.commands import diff
from headscope.pipeline.commands.run import snakemake
from headscope.pipeline.config import compose


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(compose, "CACHE", tmp_path / "compose")


def test_plan_lists_jobs_done_and_missing(tmp_path, capsys):
    assert cli.main(["plan", "experiment=smoke", f"results={tmp_path}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("missing ") for line in lines) == 23
    assert lines[-1].startswith(f"0 of 23 jobs done under {tmp_path}")


def test_verify_fails_on_a_damaged_result_and_counts_others(tmp_path, monkeypatch, capsys):
    install(monkeypatch, write_spec)
    folder = make(tmp_path, "first", {"kind": "data"})
    words = ["verify", "experiment=smoke", f"results={tmp_path}"]
    assert cli.main(words) == 0
    (folder / "manifest.json").write_text("")
    capsys.readouterr()
    assert cli.main(words) == 1
    text = capsys.readouterr().out
    assert f"damaged  assets/{folder.name}: manifest.json has changed" in text
    assert "1 results belong to no job of it" in text


def test_gc_lists_first_and_deletes_when_told(tmp_path, monkeypatch, capsys):
    install(monkeypatch, write_spec)
    folder = make(tmp_path, "first", {"kind": "data"})
    assert cli.main(["gc", f"results={tmp_path}"]) == 0
    assert str(folder) in capsys.readouterr().out and folder.exists()
    assert cli.main(["gc", "--delete", f"results={tmp_path}"]) == 0
    assert list((tmp_path / "assets").iterdir()) == []


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
    assert "experiment: default, paper/llama31_8b" in text


def test_run_refuses_an_option_of_snakemake_before_the_dashes(capsys):
    assert cli.main(["run", "-n", "experiment=smoke"]) == 2
    assert "headscope run -- -n" in capsys.readouterr().err


@pytest.mark.parametrize(
    "overrides",
    [[], ["criterion=[dense,qada]"], ["criterion=[dense,qada]", "experiment=smoke"], ["seed=1,2", "benchmark=[ruler]"]],
)
def test_snakemake_is_given_overrides_as_they_are_whatever_needs_quoting(overrides):
    from snakemake.cli import parse_config

    command = snakemake(overrides, [])
    assert shlex.split(parse_config([command[-1]])["hydra"] or "") == overrides

"""The rerun matrix with real Snakemake runs: what a change makes run again, and nothing else.

The stages are stand-ins, so that this tests plan, rules and addresses in seconds; `test_smoke.py` runs the real ones.
"""

import shutil

import pytest

DOWN = {"oracle": 1, "calibration": 1, "evaluation": 1, "figures": 2, "publish": 7}


def test_a_first_run_makes_every_node_and_the_plain_named_figures(finished):
    results = finished.root / "results"
    assert len(list(results.glob("*/*--*/provenance.json"))) == 24
    names = {path.name for path in (results / "figures" / "smoke").iterdir() if path.suffix != ".key"}
    figures = ("head_map", "label_errors", "mass_fit", "roc", "score_bytes", "score_tasks", "summary")
    assert names == {f"{figure}.{end}" for figure in figures for end in ("pdf", "png", "csv")}
    assert not list(results.glob("*/.*.tmp"))


@pytest.mark.parametrize(
    ("hydra", "jobs"),
    [
        ("experiment=smoke", {}),
        ("experiment=smoke tracking=wandb", {"track": 1}),
        ("experiment=smoke window.recent=64", DOWN),
        ("experiment=smoke window.recent=64,128", {**DOWN, "publish": 14}),
    ],
)  # fmt: skip
def test_an_option_reruns_what_depends_on_it(finished, hydra, jobs):
    """Snakemake runs what is new in the plan; `tests/pipeline/test_reruns_planned.py` has many more options."""
    assert finished.planned(hydra) == jobs


def test_touched_inputs_and_configuration_rerun_nothing(finished):
    for file in [*finished.root.glob("conf/**/*.yaml"), *finished.root.glob("results/assets/*/manifest.json")]:
        file.touch()
    finished.append("conf/window/paper.yaml", "# a comment\n")
    assert finished.planned() == {}


def test_a_comment_in_code_reruns_nothing(finished):
    finished.append("src/headscope/heads/criteria/static.py", "\n# a comment\n")
    finished.append("src/headscope/pipeline/stages/oracle.py", "\n\n# a comment\n")
    assert finished.planned() == {}


def test_a_rules_text_reruns_nothing(finished):
    rule = finished.root / "workflow/rules/common.smk"
    rule.write_text(rule.read_text().replace('"{params.command} 2>&1', '"{params.command}  2>&1'))
    assert finished.planned() == {}


def test_a_metrics_code_reruns_scores_but_no_prompts_answers_or_masses(finished):
    metrics = finished.root / "src/headscope/benchmarks/ruler/metrics.py"
    before = metrics.read_text()
    metrics.write_text(before + "\n\nADDED = 1\n")
    assert finished.planned() == {"evaluation": 1, "figures": 2, "publish": 7}
    metrics.write_text(before)
    assert finished.planned() == {}


def test_going_back_costs_only_the_plain_named_copies_even_without_snakemakes_folder(stubbed):
    stubbed.run()
    shutil.rmtree(stubbed.root / ".snakemake")
    assert stubbed.planned() == {}
    assert stubbed.planned("experiment=smoke window.recent=64") == DOWN
    stubbed.run("experiment=smoke window.recent=64")
    assert stubbed.planned() == {"publish": 7}
    shutil.rmtree(stubbed.root / ".snakemake")
    assert stubbed.planned() == {"publish": 7}
    stubbed.run()
    plain = stubbed.root / "results/figures/smoke"
    assert len(list(plain.glob("*.key"))) == 7
    for marker in plain.glob("*.key"):
        source, figure = plain.parent / marker.read_text().strip(), marker.name.partition("--")[0]
        assert "r128" in source.name
        assert (source / f"{figure}.png").read_bytes() == (plain / f"{figure}.png").read_bytes()
    assert stubbed.planned() == {}


def test_a_sweep_puts_each_points_figures_apart(stubbed):
    stubbed.run("experiment=smoke window.recent=64,128")
    folders = {path.name for path in (stubbed.root / "results/figures/smoke").iterdir()}
    assert folders == {"window.recent=64", "window.recent=128"}
    assert len(list((stubbed.root / "results/dense").iterdir())) == 2

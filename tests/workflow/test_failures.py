"""What a failed or killed job leaves behind, and how a run goes on."""

import subprocess
import sys


def test_a_failed_stage_says_why_and_leaves_nothing_half_written(stubbed):
    stubbed.inject("oracle", "from headscope.errors import AssetError", '(out / "half").touch()',
                   'raise AssetError("no such thing; do x")')  # fmt: skip
    said = stubbed.run(code=1)
    assert "headscope: no such thing; do x" in said
    assert "Traceback" not in said
    assert not [path for path in (stubbed.root / "results/oracle").rglob("*") if path.is_file()]
    assert "no such thing" in next((stubbed.root / "results/logs/oracle").iterdir()).read_text()


def test_a_figure_that_fails_keeps_no_other_from_being_drawn(stubbed):
    stubbed.inject("figures", "from headscope.errors import ConfigError", 'if spec["figure"] == "summary":',
                   '    raise ConfigError("no such thing; do x")')  # fmt: skip
    assert "headscope: no such thing; do x" in stubbed.run("experiment=smoke", "--keep-going", code=1)
    drawn = {folder.name.partition("-")[0] for folder in stubbed.root.glob("results/figures/*--*")}
    assert drawn == {"head_map", "label_errors", "mass_fit", "roc", "score_bytes", "score_tasks"}


def test_headscope_run_ends_in_the_error_and_makes_no_report(stubbed):
    stubbed.inject("prompts", "from headscope.errors import LengthError", 'raise LengthError("too short; do x")')
    command = [sys.executable, "-m", "headscope", "run", "experiment=smoke", "--", "-c2"]
    done = subprocess.run(command, cwd=stubbed.root, env=stubbed.environment, capture_output=True, text=True)
    assert done.returncode == 1
    *_, error, gaps = done.stderr.splitlines()
    assert error == "headscope: too short; do x"
    assert gaps.startswith("headscope: 29 of 31 results are missing: prompts/") and gaps.endswith(
        "run the same command again"
    )
    assert not list(stubbed.root.glob("results/figures/smoke/report.html"))


def test_a_wrong_option_is_one_error_and_runs_nothing(stubbed):
    said = stubbed.run("experiment=smoke window.recnt=64", code=1)
    assert "unknown option window.recnt; did you mean window.recent?" in said
    assert not list((stubbed.root / "results").glob("assets"))


def test_a_results_folder_that_cannot_be_written_is_one_error(stubbed):
    (stubbed.root / "file").touch()
    said = stubbed.run("experiment=smoke results=file/results", code=1)
    assert "option results:" in said and "is no folder" in said

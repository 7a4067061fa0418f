"""A results folder with spaces and letters of any alphabet works; another is refused alike by both commands."""

import subprocess
import sys
from pathlib import Path

from project import Project

OPTIONS = ["experiment=smoke", "criterion=dense", "figure=summary"]


def test_a_results_folder_may_have_spaces_and_letters_of_any_alphabet(tmp_path: Path) -> None:
    project = Project(tmp_path).stub_stages()
    words = [*OPTIONS, "results='my résults 數/a b,c=d@e+f%g (h)'"]
    command = [sys.executable, "-m", "headscope", "run", *words, "--", "-c2"]
    done = subprocess.run(command, cwd=tmp_path, env=project.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = tmp_path / "my résults 數/a b,c=d@e+f%g (h)/figures/smoke"
    assert {file.suffix for file in figures.iterdir()} == {".csv", ".pdf", ".png", ".key", ".html"}
    quoted = f'{OPTIONS[0]} "{words[-1]}" {" ".join(OPTIONS[1:])}'
    assert project.planned(quoted) == {}


def test_another_is_refused_by_both_commands_with_the_same_line(tmp_path: Path) -> None:
    project = Project(tmp_path)
    command = [sys.executable, "-m", "headscope", "run", "results='a{b}'", *OPTIONS]
    done = subprocess.run(command, cwd=tmp_path, env=project.environment, capture_output=True, text=True)
    [line] = done.stderr.splitlines()
    assert done.returncode == 2
    assert line.startswith("headscope: option results: 'a{b}'")
    quoted = f"""{OPTIONS[0]} "results='a{{b}}'" {OPTIONS[1]}"""
    assert line.removeprefix("headscope: ") in project.run(quoted, "-n", code=1)


def test_options_that_snakemake_takes_apart_are_refused_with_a_remedy(tmp_path: Path) -> None:
    project = Project(tmp_path)
    mapping = f"{OPTIONS[0]} 'window={{recent: 64}}' {OPTIONS[1]}"
    assert "leave out the space, or use headscope run" in project.run(mapping, "-n", code=1)
    assert "no closing quotation" in project.run("experiment=smoke 'results=a #b' figure=summary", "-n", code=1)
    command = [sys.executable, "-m", "headscope", "run", *OPTIONS, "window={recent: 64}", "--", "-n"]
    done = subprocess.run(command, cwd=tmp_path, env=project.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "s16r64" in done.stdout + done.stderr

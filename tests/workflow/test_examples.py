"""The criterion of docs/own_criterion.md: its file and its YAML are planned beside others and change no other job."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from project import Project

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = re.findall(
    r"<!-- example: (\S+) -->\n```\w+\n(.*?)```", (ROOT / "docs/own_criterion.md").read_text("utf-8"), re.DOTALL
)


def addresses(project: Project, criteria: str) -> set[str]:
    """The jobs of a small experiment, each with its key."""
    command = [sys.executable, "-m", "headscope", "plan", "experiment=smoke", f"criterion={criteria}"]
    done = subprocess.run(command, cwd=project.root, env=project.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(re.findall(r"^missing +(\S+)$", done.stdout, re.MULTILINE))


def test_the_pages_criterion_is_planned_and_renews_no_other_job(tmp_path: Path) -> None:
    project = Project(tmp_path)
    before = addresses(project, "[dense,oracle,qada]")
    assert [Path(file).name for file, _ in EXAMPLES] == ["flat_bulk.py", "flat_bulk.yaml"]
    for file, text in EXAMPLES:
        (project.root / file).write_text(text, encoding="utf-8")
    assert addresses(project, "[dense,oracle,qada]") == before
    more = addresses(project, "[dense,oracle,qada,flat_bulk]")
    assert {job for job in before if not re.match("evaluation|figures", job)} < more
    assert any(job.startswith("calibration/flat_bulk-") for job in more)


def test_the_pages_criterion_compares_the_window_with_the_size_of_the_bulk() -> None:
    names: dict[str, type] = {}
    exec(EXAMPLES[0][1], names)
    view = SimpleNamespace(window_mass=torch.full((1, 2, 3), 2.0), outside=torch.tensor([0, 1, 100]))
    margin = names["CRITERION"](torch.zeros(1, dtype=torch.float64)).margin(torch.empty(1, 2, 3, 4), view)
    assert margin[0, 0].tolist() == [float("inf"), 2.0, (2 - torch.tensor(100).log()).item()]

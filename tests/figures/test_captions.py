"""Captions of the report: one a figure, valid reStructuredText."""

from pathlib import Path
from types import SimpleNamespace

import jinja2
import pytest
from docutils.core import publish_doctree

ROOT = Path(__file__).parents[2]
MADE_BY = {"command": "headscope run", "git": {}}
CAPTIONS = sorted((ROOT / "workflow" / "report").glob("*.rst"))


def rendered(file, config):
    # Snakemake's environment.
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    snakemake = SimpleNamespace(config=config, wildcards=SimpleNamespace(figure="roc"))
    text = environment.from_string(file.read_text()).render(snakemake=snakemake)
    return publish_doctree(text, settings_overrides={"halt_level": 2, "report_level": 2}).astext()


@pytest.mark.parametrize("file", CAPTIONS, ids=lambda file: file.stem)
def test_a_caption_renders_without_a_warning(file):
    assert "Left out" not in rendered(file, MADE_BY)


def test_the_report_names_tasks_that_were_left_out():
    reasons = ["task cwe at length 1024: too short; choose 1060", "task niah_single_1 at length 64: `a_` *b"]
    text = rendered(ROOT / "workflow" / "report" / "workflow.rst", {**MADE_BY, "left_out": reasons})
    assert "Left out" in text and "; ".join(reasons) in text


@pytest.mark.parametrize(
    ("git", "words"),
    [
        ({"commit": "12ab", "dirty": False}, "at commit 12ab:"),
        ({"commit": "12ab", "dirty": True}, "at commit 12ab with changes that were not committed:"),
        ({}, "This command made it:"),
    ],
)
def test_the_report_names_the_command_and_the_commit(git, words):
    command = "headscope run 'criterion=[dense,*]' name=`a_"
    text = rendered(ROOT / "workflow" / "report" / "workflow.rst", {**MADE_BY, "command": command, "git": git})
    assert words in text and f"\n{command}\n" in text


def test_every_figure_has_a_caption():
    modules = (ROOT / "src" / "headscope" / "figures").glob("*.py")
    figures = {file.stem for file in modules if "\ndef draw(" in file.read_text()}
    assert figures == {file.stem for file in CAPTIONS} - {"workflow", "default"}

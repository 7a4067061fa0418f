"""Captions of the report: one a figure, valid reStructuredText."""

from pathlib import Path
from types import SimpleNamespace

import jinja2
import pytest
from docutils.core import publish_doctree

ROOT = Path(__file__).parents[2]
CAPTIONS = sorted((ROOT / "workflow" / "report").glob("*.rst"))


@pytest.mark.parametrize("file", CAPTIONS, ids=lambda file: file.stem)
def test_a_caption_renders_without_a_warning(file):
    snakemake = SimpleNamespace(config={"hydra": "experiment=smoke"}, rule="figure_roc")
    text = jinja2.Template(file.read_text(), undefined=jinja2.StrictUndefined).render(snakemake=snakemake)
    publish_doctree(text, settings_overrides={"halt_level": 2, "report_level": 2})


def test_every_figure_has_a_caption():
    modules = (ROOT / "src" / "headscope" / "figures").glob("*.py")
    figures = {file.stem for file in modules if "\ndef draw(" in file.read_text()}
    assert figures == {file.stem for file in CAPTIONS} - {"workflow", "default"}

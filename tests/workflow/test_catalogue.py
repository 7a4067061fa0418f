"""What the Snakemake catalogue and citation tools read says the same as the package."""

import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_catalogue_finds_the_files_it_looks_for():
    assert all((ROOT / name).is_file() for name in ("workflow/Snakefile", "config/README.md"))
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert usage["report"] is True
    # No rule has an environment or container, as tests/workflow/test_snakefile.py checks with lint.
    assert set(usage["software-stack-deployment"].values()) == {False}


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["message"] and citation["authors"]
    assert (citation["title"], citation["version"]) == (PROJECT["name"], PROJECT["version"])
    assert citation["license"] == PROJECT["license"]


def test_the_changelog_has_a_dated_entry_of_this_version():
    released = yaml.safe_load((ROOT / "CITATION.cff").read_text())["date-released"]
    assert f"\n## [{PROJECT['version']}] - {released.isoformat()}\n" in (ROOT / "CHANGELOG.md").read_text()

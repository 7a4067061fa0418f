"""The pages: generated ones are fresh, links lead somewhere, commands compose, and the README stays short."""

import re
import shlex
from pathlib import Path

import pytest

from headscope import __main__ as cli
from headscope.errors import ConfigError
from headscope.pipeline.commands import docs
from headscope.pipeline.config import compose
from headscope.pipeline.plan.stages import STAGES

ROOT = Path(__file__).resolve().parents[1]
OF_WINDOW = 144 * 2 * 64 * 2
GAUSSIAN = {"kind": "gaussian", "name": "g", "covariance": "diagonal", "moments": "prose"}
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("[cdw]*/*.md"), *ROOT.glob("results/reference/*/*.md")])
LINK = re.compile(r"\]\(([^()\s]+)\)")
BASH = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def cache(compositions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compose, "CACHE", compositions)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands() -> list[list[str]]:
    """The words behind the name of every headscope command in the bash blocks of the pages."""
    blocks = [block.replace("\\\n", "") for page in PAGES for block in BASH.findall(page.read_text("utf-8"))]
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    names = [[Path(word).name for word in words] for words in lines]
    return [
        words[called.index("headscope") + 1 :]
        for words, called in zip(lines, names, strict=True)
        if "headscope" in called
    ]


@pytest.mark.parametrize("page", docs.PAGES)
def test_generated_pages_are_fresh(page: str) -> None:
    assert (ROOT / page).read_text("utf-8") == docs.PAGES[page](ROOT), "run `headscope docs`"


def test_docs_checks_before_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docs, "PAGES", {"page.md": lambda root: "new\n"})
    monkeypatch.setattr(docs, "find_root", lambda: tmp_path)
    assert cli.main(["docs", "--check"]) == 1 and not (tmp_path / "page.md").exists()
    assert cli.main(["docs"]) == 0 and (tmp_path / "page.md").read_text() == "new\n"
    assert cli.main(["docs", "--check"]) == 0
    with pytest.raises(ConfigError, match="--chek"):
        docs.main(["--chek"])


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_relative_links_and_images_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text("utf-8")):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not link.startswith(("http://", "https://")):
            assert target.exists(), f"{name(page)} links to {link}, which is not there"
            assert not anchor or anchor in anchors(target), f"{name(page)} links to {link}: no such heading"


def test_the_readme_is_short_and_leads_to_every_page_in_one_step() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 130
    assert {name(page) for page in ROOT.glob("docs/*.md")} <= set(LINK.findall(text))


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_of_the_pages_exist_and_their_options_compose(words: list[str]) -> None:
    assert words[0] in cli.COMMANDS
    options = words[1 : words.index("--") if "--" in words else None]
    if words[0] in ("run", "plan", "verify"):
        assert compose.compose([word for word in options if word not in ("-m", "--cfg", "job", "--delete")], ROOT)


def cost(kind: str, estimator: dict | None, outliers: dict | None) -> float:
    return docs.in_windows({"kind": kind, "estimator": estimator, "outliers": outliers}, 64)


def test_costs_are_bytes_over_the_windows_bytes() -> None:
    assert cost("static", None, None) == 0
    assert cost("qada", {**GAUSSIAN, "covariance": "full"}, None) == (64 + 64 * 65 / 2) * 4 / OF_WINDOW
    assert cost("lost_output", GAUSSIAN, {"count": 72, "bits": 16}) == 0.5 + 3 * 64 * 4 / OF_WINDOW
    clusters = {"kind": "clusters", "name": "c", "clusters": 16, "covariance": "full", "bits": 16}
    assert cost("lost_output", clusters, None) == (16 * (2 * 64 + 2) + 64 * 65 / 2) * 4 / OF_WINDOW
    assert cost("oracle", None, {"count": 10, "bits": 8}) == 2 * (10 * 68 + 128) / OF_WINDOW


def test_the_cluster_page_says_what_each_stage_asks_for() -> None:
    text = (ROOT / "docs/cluster.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (yes|no) \| (.+) \|$", text, re.MULTILINE)
    where = {True: "where Snakemake runs", False: "as a job"}
    assert rows == [
        (
            stage.name,
            str(stage.runtime // 60),
            "yes" if stage.gpu else "no",
            where[stage.local],
        )
        for stage in STAGES.values()
    ]

import sys

import pytest

from headscope import source
from headscope.errors import ConfigError
from headscope.pipeline.plan import code
from headscope.pipeline.plan.stages import STAGES


def forget():
    """Read all sources again."""
    code._read.cache_clear()
    code.code_digest.cache_clear()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of three modules: stage -> method -> maths, and other, which nobody imports."""

    def write(**files):
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(text)
        forget()
        return code.code_digest("headscope.stage")

    monkeypatch.setattr(source, "SOURCE", tmp_path)
    yield write
    forget()


FILES = {
    "stage": "from headscope import method\n\ndef run():\n    return method.f(1)\n",
    "method": "from .maths import g\n\ndef f(x):\n    return g(x)\n",
    "maths": "def g(x):\n    return x + 1\n",
    "other": "y = 1\n",
}


def test_comments_docstrings_and_layout_do_not_count(package):
    before = package(**FILES)
    assert (
        package(method='"""Doc."""\nfrom .maths import g  # why\n\n\ndef f(x):\n    """Doc."""\n    return g( x )\n')
        == before
    )


def test_a_change_of_an_imported_module_counts_however_deep(package):
    before = package(**FILES)
    assert package(maths="def g(x):\n    return x + 2\n") != before
    assert package(maths=FILES["maths"]) == before


def test_a_module_that_is_not_imported_does_not_count(package):
    assert package(**FILES) == package(other="y = 2\n")


def test_closure_follows_every_form_of_import(package):
    package(
        **FILES | {"stage": "import headscope.method\nimport json\n\ndef f():\n    from headscope.other import y\n"}
    )
    assert code.closure("headscope.stage") == {f"headscope.{name}" for name in ("stage", "method", "maths", "other")}


def test_a_missing_module_is_named(package):
    package(**FILES)
    with pytest.raises(ConfigError, match=r"headscope\.nowhere"):
        code.code_digest("headscope.nowhere")


def test_nothing_is_imported():
    before = set(sys.modules)
    code.code_digest("headscope.heads.mass")
    assert not {name for name in set(sys.modules) - before if name.startswith(("torch", "headscope.heads"))}


def test_an_option_more_or_another_resource_renews_no_stage():
    for stage in STAGES:
        found = code.closure(f"headscope.pipeline.stages.{stage}")
        assert not found & {
            "headscope.pipeline.config.schema",
            "headscope.pipeline.plan.nodes",
            "headscope.pipeline.plan.slices",
            "headscope.pipeline.plan.stages",
            "headscope.pipeline.plan.plan",
        }, stage

from pathlib import Path

import pytest

from headscope.pipeline.config import compose
from headscope.pipeline.plan import plan

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Plan override strings with the repository's configuration, its cache in a temporary folder."""
    monkeypatch.setattr(compose, "CACHE", tmp_path / "compose")
    return lambda *overrides: plan.build(overrides, ROOT)

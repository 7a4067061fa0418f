"""Tests share two cores: one torch thread a worker. Nothing reaches a network."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headscope.pipeline.plan.plan import Plan

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, which some library may do before our kernels

for folder in ("models", "lab", "inference"):  # their helpers
    sys.path.insert(0, str(Path(__file__).parent / folder))

ROOT = Path(__file__).resolve().parents[1]

LONG = (
    "test_slurm",
    "test_smoke",
    "test_adaptive_kernels",
    "test_faults",
    "test_recovery",
    "test_members",
    "test_reruns",
)
"""Files that take a minute or more. They come first, so that no worker waits for another at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


def pytest_xdist_auto_num_workers() -> int:
    """Return one worker more than cores: many tests wait for processes that they have started."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(scope="session")
def compositions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compositions for the tests of one worker: each takes Hydra a third of a second."""
    return tmp_path_factory.mktemp("compose")


@pytest.fixture
def build(compositions: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., "Plan"]:
    """Plan override strings with the repository's configuration."""
    from headscope.pipeline.config import compose
    from headscope.pipeline.plan import plan

    monkeypatch.setattr(compose, "CACHE", compositions)
    return lambda *overrides: plan.build(overrides, ROOT)

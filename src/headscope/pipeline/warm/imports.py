"""What the warm process imports for jobs, and whether a child of it would be like a new process that imports it."""

import gc
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from typing import NamedTuple

from headscope.pipeline.collector import collector_paused
from headscope.pipeline.plan.stages import STAGES
from headscope.pipeline.warm.request import shared
from headscope.source import SOURCE

STAGE_MODULES = [f"headscope.pipeline.stages.{name}" for name in STAGES]
LATER = (
    "datasets",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",  # most of what any decoder imports
    "matplotlib.backends.backend_pdf",
)
"""What stages import when they run."""


class State(NamedTuple):
    """What tells what an import would do; `sources` are times of change by file."""

    session: int
    folder: str
    environment: dict[str, str]
    sources: dict[str, int]


def state(session: int, folder: str, environment: Mapping[str, str]) -> State:
    """Return the state of a process that would import now."""
    sources = {}
    for file in SOURCE.rglob("*.py"):
        with suppress(OSError):  # an editor has just deleted it
            sources[str(file)] = file.stat().st_mtime_ns
    return State(session, folder, shared(environment), sources)


def import_all() -> None:
    """Import the stages and, unless they are stand-ins, what they import when they run.

    None of it may start a thread or initialise CUDA: neither works in a child.
    """
    with collector_paused():
        for name in ("headscope.pipeline.commands.batch", *STAGE_MODULES):
            import_module(name)
        for name in LATER if "transformers" in sys.modules else ():
            import_module(name)
    gc.freeze()  # a collection would copy the memory that children share


def can_fork() -> bool:
    """Return False if an import has asked CUDA for its devices: torch refuses to use them in a child then."""
    if not (pid := os.fork()):
        torch = sys.modules.get("torch")
        os._exit(torch is not None and torch.cuda._is_in_bad_fork())
    return os.waitpid(pid, 0)[1] == 0

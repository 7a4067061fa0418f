"""headscope: which attention heads need the long context, per query.

The library's own names are loaded when they are first used, so that `import headscope` stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headscope.heads.window import Window
    from headscope.inference.calibrate import calibrate
    from headscope.inference.context import adaptive
    from headscope.inference.criterion import AdaptiveCriterion
    from headscope.inference.load import load
    from headscope.inference.session import Session
    from headscope.lab.counts import Shares

__version__ = "0.1.0"
__all__ = ["AdaptiveCriterion", "Session", "Shares", "Window", "adaptive", "calibrate", "load"]
_HOMES = {
    "AdaptiveCriterion": "inference.criterion",
    "Session": "inference.session",
    "Shares": "lab.counts",
    "Window": "heads.window",
    "adaptive": "inference.context",
    "calibrate": "inference.calibrate",
    "load": "inference.load",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

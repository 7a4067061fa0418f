"""Arguments of the library as people write them: numbers of numpy or as text, windows, targets.

Each is served, or refused by one line that names it.
"""

from collections.abc import Iterable, Sequence
from operator import index
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from headscope.errors import ConfigError
from headscope.heads.window import Window

LARGEST = 1 << 31


def require_model(model: Any) -> None:
    """Refuse what is not a model of transformers that generates text.

    Raises:
        ConfigError: it is something else, such as a name, a pipeline, a wrapper or a model without a head for tokens.
    """
    if not isinstance(model, PreTrainedModel) or not model.can_generate():
        kind = type(model).__name__
        raise ConfigError(f"model is of type {kind}; give the model itself, as AutoModelForCausalLM returns it")


def refuse_training(decoder: nn.Module) -> None:
    """Refuse a decoder in training mode, whose dropout would change every answer.

    Raises:
        ConfigError: it is.
    """
    if decoder.training:
        raise ConfigError("the model is in training mode (model.training = True); call model.eval()")


def choice(name: str, value: Any, choices: Iterable[str]) -> str:
    """Return one of several words.

    Raises:
        ConfigError: it is another one.
    """
    words = list(choices)
    if not isinstance(value, str) or value not in words:
        raise ConfigError(f"{name}={_line(value)} is unknown; choose one of {', '.join(words)}")
    return value


def yes_or_no(name: str, value: Any) -> bool:
    """Return a truth value.

    Raises:
        ConfigError: it is something else.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"{name}={_line(value)}: give True or False")
    return value


def whole(name: str, value: Any, least: int) -> int:
    """Return a whole number.

    Raises:
        ConfigError: it is none, smaller than `least`, or of more than 32 bits.
    """
    try:
        number = least - 1 if isinstance(value, bool) else index(value)
    except TypeError:
        number = least - 1
    if not least <= number < LARGEST:
        raise ConfigError(f"{name}={_line(value)}: give a whole number, {least} or more")
    return number


def share(name: str, value: Any) -> float:
    """Return a share between 0 and 1: a number of Python or numpy, or its text; numpy.float32(0.8) is 0.8.

    Raises:
        ConfigError: it is none.
    """
    try:
        number = float(str(value))
    except ValueError:
        number = 0.0
    if not 0 < number < 1:
        raise ConfigError(f"{name}={_line(value)}: every target must lie between 0 and 1, as 0.8 does")
    return number


def file(name: str, value: Any) -> Path:
    """Return a path.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(value, str | Path):
        raise ConfigError(f"{name}={_line(value)}: give the path of a file")
    return Path(value)


def targets(sparsity: Any) -> list[float]:
    """Return the targets: one share, or several in any order.

    Raises:
        ConfigError: there is none, or one is no share.
    """
    single = isinstance(sparsity, str) or not isinstance(sparsity, Iterable) or getattr(sparsity, "ndim", 1) == 0
    values: Sequence[Any] = [sparsity] if single else list(sparsity)
    if not values:
        raise ConfigError(f"sparsity={_line(sparsity)} holds no target; give one between 0 and 1, as 0.8")
    return [share("sparsity", value) for value in values]


def checked_window(window: Any) -> Window:
    """Return the window in whole numbers; None: the default.

    Raises:
        ConfigError: it is no `Window`, or one of its sizes is negative or no whole number.
    """
    if window is None:
        return Window()
    if not isinstance(window, Window):
        raise ConfigError(f"window={_line(window)}: give headscope.Window(sink=16, recent=128)")
    return Window(whole("window.sink", window.sink, 0), whole("window.recent", window.recent, 1))


def _line(value: Any) -> str:
    """Show a value in one short line; tables and tensors would fill several."""
    return f"{' '.join(repr(value).split()):.80}"

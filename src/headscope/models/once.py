"""Asks a model once: remembers what it showed until its modules, dtype, device or attention function change."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, ref

from transformers import PreTrainedModel

Answer = TypeVar("Answer")

_ANSWERS: WeakKeyDictionary[PreTrainedModel, dict[Callable[..., Any], Any]] = WeakKeyDictionary()
_STATES: WeakKeyDictionary[PreTrainedModel, tuple[Any, ...]] = WeakKeyDictionary()


def once(ask: Callable[[PreTrainedModel], Answer]) -> Callable[[PreTrainedModel], Answer]:
    """Remember what a function of a model returned; whoever takes a model from a user calls `forget_if_changed`."""

    @wraps(ask)
    def remembered(model: PreTrainedModel) -> Answer:
        if model not in _ANSWERS:
            _ANSWERS[model], _STATES[model] = {}, _state(model)
        answers = _ANSWERS[model]
        if ask not in answers:
            answers[ask] = ask(model)
        answer: Answer = answers[ask]
        return answer

    return remembered


def forget_if_changed(model: PreTrainedModel) -> None:
    """Forget what a model showed if it was cast, moved, patched or adapted since; other numbers change no answer."""
    state = _state(model)
    if _STATES.get(model) != state:
        _ANSWERS.pop(model, None)
        _STATES[model] = state


def _state(model: PreTrainedModel) -> tuple[Any, ...]:
    """Return what the answers depend on; weak references, for a new module may stand where another one was."""
    modules = [
        (name, ref(module), type(module), id(vars(module).get("forward"))) for name, module in model.named_modules()
    ]
    return model.dtype, model.device, model.config._attn_implementation, modules

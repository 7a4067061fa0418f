"""Functions of all tensors inside a value: criteria are made on the CPU and moved to the device once.

A copy at every call would wait for the GPU each time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

Value = TypeVar("Value")


def to_device(value: Value, device: torch.device) -> Value:
    """Move all tensors of a value to a device."""
    return map_tensors(value, lambda x: x.to(device))


def map_tensors(value: Value, change: Callable[[Tensor], Tensor]) -> Value:
    """Change all tensors of a value: in fields of dataclasses and tuples, and in values of mappings."""
    return _combined([value], lambda tensors: change(tensors[0]))


def joined(values: Sequence[Value]) -> Value:
    """Put values of different KV heads, made alike, one after the other: all their tensors in dimension 0.

    Those that are shorter in dimension 1 have zeros behind. What is no tensor and differs is None: who needs it fails.
    """
    return _combined(values, _one_after_the_other)


def _combined(values: Sequence[Value], combine: Callable[[Sequence[Tensor]], Tensor]) -> Value:
    """Make one value of several that are made alike; `combine` gets the tensors that stand in the same place."""
    each: Sequence[Any] = values
    first, made = each[0], each[0]
    if isinstance(first, Tensor):
        made = combine(each)
    elif isinstance(first, Mapping):
        made = {key: _combined([value[key] for value in each], combine) for key in first}
    elif is_dataclass(first) and not isinstance(first, type):
        names = [part.name for part in fields(first)]
        made = replace(first, **{name: _combined([getattr(value, name) for value in each], combine) for name in names})
    elif isinstance(first, tuple):
        parts = [_combined(parts, combine) for parts in zip(*each, strict=True)]
        made = type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)
    elif any(value != first for value in each[1:]):
        made = None
    result: Value = made
    return result


def _one_after_the_other(tensors: Sequence[Tensor]) -> Tensor:
    if len(tensors) == 1:
        return tensors[0]
    if tensors[0].ndim > 1:
        longest = max(x.shape[1] for x in tensors)
        tensors = [pad(x, (*(0, 0) * (x.ndim - 2), 0, longest - x.shape[1])) for x in tensors]
    return torch.cat(list(tensors))

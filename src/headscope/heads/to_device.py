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
    copy: Any = value
    if isinstance(copy, Tensor):
        copy = change(copy)
    elif isinstance(copy, Mapping):
        copy = {key: map_tensors(inner, change) for key, inner in copy.items()}
    elif is_dataclass(copy) and not isinstance(copy, type):
        copy = replace(copy, **{part.name: map_tensors(getattr(copy, part.name), change) for part in fields(copy)})
    elif isinstance(copy, tuple):
        parts = [map_tensors(inner, change) for inner in copy]
        copy = type(copy)(*parts) if hasattr(copy, "_fields") else tuple(parts)
    result: Value = copy
    return result


def joined(values: Sequence[Value]) -> Value:
    """Put values of different KV heads, made alike, one after the other: all their tensors in dimension 0.

    Those that are shorter in dimension 1 have zeros behind. What is no tensor is the first value's.
    """
    if len(values) == 1:
        return values[0]
    one_after_the_other = iter([_stacked(tensors) for tensors in zip(*map(tensors_of, values), strict=True)])
    return map_tensors(values[0], lambda _: next(one_after_the_other))


def tensors_of(value: Any) -> list[Tensor]:
    """List all tensors inside a value, in the order of `map_tensors`."""
    found: list[Tensor] = []

    def kept(x: Tensor) -> Tensor:
        found.append(x)
        return x

    map_tensors(value, kept)
    return found


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    if tensors[0].ndim > 1:
        longest = max(x.shape[1] for x in tensors)
        tensors = [pad(x, (*(0, 0) * (x.ndim - 2), 0, longest - x.shape[1])) for x in tensors]
    return torch.cat(list(tensors))

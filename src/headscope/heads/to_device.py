"""Functions of all tensors inside a value: criteria are made on the CPU and moved to the device once.

A copy at every call would wait for the GPU each time.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

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

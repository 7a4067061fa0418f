"""Criteria are made on the CPU and moved to the device once: a copy at every call would wait for the GPU each time."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

Found = TypeVar("Found")


def to_device(found: Found, device: torch.device) -> Found:
    """The same with all of its tensors on the device: fields of dataclasses and tuples, values of mappings."""
    change: Any = found
    if isinstance(change, Tensor):
        change = change.to(device)
    elif isinstance(change, Mapping):
        change = {key: to_device(value, device) for key, value in change.items()}
    elif is_dataclass(change) and not isinstance(change, type):
        change = replace(
            change, **{part.name: to_device(getattr(change, part.name), device) for part in fields(change)}
        )
    elif isinstance(change, tuple) and hasattr(change, "_fields"):
        change = type(change)(*(to_device(part, device) for part in change))
    result: Found = change
    return result

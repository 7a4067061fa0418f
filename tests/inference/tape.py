"""A stand-in for CUDA graphs on the CPU: operations are taped with their tensors, and Python is not run again.

What a graph cannot hold raises while taping: reading a tensor, making one from numbers of Python.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from headscope.kernels.common.layer import Decided

WAITS = {"_local_scalar_dense", "equal", "nonzero", "lift_fresh", "is_nonzero"}


class Waits(RuntimeError):
    """An operation would wait for the GPU."""


class NoWaits(TorchDispatchMode):
    """Refuses operations that wait for the GPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name.split("::")[1] in WAITS:
            raise Waits(func._schema.name)
        return func(*args, **(kwargs or {}))


class Tape(NoWaits):
    """In place of a `headscope.kernels.common.graph.CudaGraph`."""

    made: ClassVar[list["Tape"]] = []
    taping: ClassVar["Tape | None"] = None

    def __init__(self, device: torch.device):
        super().__init__()
        self.device, self.steps, self.replays = device, [], 0
        Tape.made.append(self)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = super().__torch_dispatch__(func, types, args, kwargs)
        self.steps.append((func, args, kwargs or {}, found))
        return found

    def capture(self, run: Callable[[], Tensor]) -> Tensor:
        Tape.taping = self
        try:
            with self:
                return run()
        finally:
            Tape.taping = None

    def replay(self) -> None:
        self.replays += 1
        with _disable_current_modes():
            for func, args, kwargs, left in self.steps:
                for old, new in zip(tree_leaves(left), tree_leaves(func(*args, **kwargs)), strict=True):
                    if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


def launched(run: Callable[..., Any]) -> Callable[..., Any]:
    """A function as one operation, as a kernel's launch is one: it may read its tensors, which the tape reads again."""

    def launch(*args: Any, **kwargs: Any) -> Any:
        with _disable_current_modes():
            found = run(*args, **kwargs)
        if Tape.taping is not None:
            tensors = vars(found) if isinstance(found, Decided) else found
            again = (lambda *a, **k: vars(run(*a, **k))) if isinstance(found, Decided) else run
            Tape.taping.steps.append((again, args, kwargs, tensors))
        return found

    return launch


class Kernel:
    """A kernel of Triton whose launches are taped."""

    def __init__(self, kernel: Any):
        self.kernel = kernel

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., Any]:
        return launched(self.kernel[grid])

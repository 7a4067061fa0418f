"""Decoding steps without launches: a decoder's forward of one token as a CUDA graph, for static caches.

A step of a small model is spent on the CPU, in Python and launch after launch, while the GPU waits. Of
forwards whose arguments look alike the first runs as it is (it compiles kernels and makes workspaces), the second is
captured and the others are replayed: their tensors are copied to where the graph reads them.

What a replay cannot do stays eager: dynamic, sliding and offloaded caches, masks that grow, hooks on the decoder's
modules, outputs beside the last hidden states, gradients, autocast, several devices, adapters, a CPU.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from headscope.inference.cache_rows import addresses
from headscope.kernels.common.graph import CudaGraph

COLLECTORS = "transformers.utils.output_capturing"
PLAIN = (type(None), bool, int, float, str)
RETURNED = {"last_hidden_state", "past_key_values"}


GRAPHS = {"cuda": CudaGraph}
"""By type of device."""


class GraphedForward:
    """Forwards of one token of a decoder."""

    def __init__(self, model: PreTrainedModel, forward: Callable[..., Any]):
        """Serve the decoder of a model.

        Args:
            model: whose decoder's modules, and hooks on them, are looked at.
            forward: the decoder's, or one around it that changes no state but tensors in place; keywords only.
        """
        modules = list(model.get_decoder().modules())
        self._forward = forward
        self._hooks = [hooks for each in modules[1:] for hooks in (each._forward_hooks, each._forward_pre_hooks)]
        devices = {x.device for x in model.get_decoder().parameters()}
        adapted = getattr(model, "_hf_peft_config_loaded", False)
        self._served = len(devices) == 1 and not adapted
        self._device = next(iter(devices), torch.device("cpu"))
        self.drop()

    def drop(self) -> None:
        """Let go of the graph and its memory."""
        self._key: tuple[Any, ...] | None = None
        self._graph: CudaGraph | None = None
        self._inputs: dict[str, Tensor] = {}
        self._output: Tensor | None = None

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # else pieces of a graph would be compiled
    def __call__(self, **given: Any) -> Any:
        """What the forward returns; the hidden states are the caller's own."""
        key = self._key_of(given)
        if key is None or key != self._key:
            self.drop()
            output = self._forward(**given)
            if key is not None and hasattr(output, "keys") and set(output.keys()) <= RETURNED:
                self._key, self._type = key, type(output)
            return output
        if not self._replayed(given):
            return self._forward(**given)
        assert self._output is not None
        return self._type(last_hidden_state=self._output.clone(), past_key_values=given["past_key_values"])

    def _replayed(self, given: Mapping[str, Any]) -> bool:
        """Replay, or capture where nothing was yet; False: it cannot be."""
        if self._graph is not None:
            for name, buffer in self._inputs.items():
                buffer.copy_(given[name])
            self._graph.replay()
            return True
        self._inputs = {name: x.clone() for name, x in given.items() if isinstance(x, Tensor)}
        graph = GRAPHS[self._device.type](self._device)
        try:
            self._output = graph.capture(lambda: self._forward(**{**given, **self._inputs}).last_hidden_state)
        except RuntimeError as error:  # nothing was run; a model that waits for its GPU, say
            warnings.warn(f"a decoding step cannot be captured and stays slow: {error}", stacklevel=2)
            self.drop()
            self._served = False
            return False
        self._graph = graph
        return True

    def _hooked(self) -> bool:
        """Whether a hook is there; those that transformers leaves do nothing where their outputs are not asked for."""
        hooks = (hook for found in self._hooks if found for hook in found.values())
        return any(getattr(hook, "__module__", None) != COLLECTORS for hook in hooks)

    def _key_of(self, given: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """All that a graph was made for, but the contents of tensors; None: it cannot serve."""
        if not self._served or self._device.type not in GRAPHS or torch.is_grad_enabled():
            return None
        # First the cache, which most often says no, and cheaply; all modules' hooks last.
        where = addresses(given.get("past_key_values"))
        if where is None or torch.is_autocast_enabled(self._device.type) or self._hooked():
            return None
        found = [(name, _looks(value)) for name, value in given.items() if name != "past_key_values"]
        if any(looks is None for _, looks in found):
            return None
        return torch.is_inference_mode_enabled(), where, *found


def _looks(value: Any) -> tuple[Any, ...] | None:
    """What must stay of an argument; None: that cannot be told by a comparison."""
    if isinstance(value, Tensor):
        return value.shape, value.dtype, value.device
    kind: Any = type(value)
    return (value,) if kind in PLAIN or kind.__eq__ is object.__eq__ else None


@contextmanager
def forwarding(model: PreTrainedModel, forward: Callable[..., Any]) -> Iterator[None]:
    """Inside the block a function takes the place of the decoder's forward.

    `generate` would compile steps on static caches by itself, which a graph makes needless: it does so only where a
    `compile_config` is given.
    """
    decoder = model.get_decoder()
    before, may_compile = vars(decoder).get("forward"), model._valid_auto_compile_criteria
    decoder.forward = forward
    model._valid_auto_compile_criteria = lambda given, config: (
        config.compile_config is not None and may_compile(given, config)
    )
    try:
        yield
    finally:
        del model._valid_auto_compile_criteria
        if before is None:
            del decoder.forward
        else:
            decoder.forward = before

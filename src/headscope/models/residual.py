"""What becomes of a head's output on its way into the residual stream: the output projection, and norms about it.

Which modules these are is seen in a forward: each takes, as it is, what the one before gave, the first what attention
gave. `o_proj` alone would be wrong where a norm stands behind it (Gemma-3, OLMo-2): ten times its weights then change
nothing.

Shapes: H query heads, D head_dim, N = H D, S samples, E numbers of the residual stream.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from headscope.errors import UnsupportedModelError
from headscope.models.attention import LayerCall, causal_attention
from headscope.models.geometry import geometry
from headscope.models.observe import TOKENS, hooked, observe, random_tokens, run
from headscope.models.once import once


class Visit(NamedTuple):
    """One call of a module without children.

    Attributes:
        module: which.
        entered: its first argument.
        left: what it returned.
    """

    module: nn.Module
    entered: Tensor
    left: Tensor


class HeadOutputs:
    """Keeps the last attention output of every layer, [B, T, N]; attends as the model does."""

    def __init__(self) -> None:
        self.of_layer: dict[int, Tensor] = {}

    def attend(self, call: LayerCall) -> Tensor:
        """Keep the output and return it in the order that the attention function hands on, [B, H, T, D]."""
        output = causal_attention(call).transpose(1, 2).contiguous()
        self.of_layer[call.layer] = output.flatten(2)
        return output.transpose(1, 2)


@contextmanager
def visits(block: nn.Module, into: list[Visit]) -> Iterator[None]:
    """Keep every call of a module of `block` that has no children, in order."""

    def keep(module: nn.Module, arguments: tuple[object, ...], left: object) -> None:
        if arguments and isinstance(arguments[0], Tensor) and isinstance(left, Tensor):
            into.append(Visit(module, arguments[0], left))

    with hooked(module.register_forward_hook(keep) for module in block.modules() if not any(module.children())):
        yield


class OutputPath:
    """The modules that a layer's heads go through, in float32 copies.

    Attributes:
        modules: in order.
    """

    @torch.inference_mode(False)
    def __init__(self, modules: Sequence[nn.Module]):
        self.modules = [deepcopy(module).float() for module in modules]

    def __call__(self, heads: Tensor) -> Tensor:
        """Return what the residual stream gets of [..., N] outputs of all heads, [..., E]."""
        for module in self.modules:
            heads = module(heads)
        return heads

    @torch.inference_mode(False)  # which derivatives do not know in older versions of torch
    @torch.no_grad()
    def norms(self, heads: int, samples: Tensor) -> Tensor:
        """Return the root mean square norm of what a unit vector of each head adds, at the sampled outputs, [H].

        Args:
            heads: H.
            samples: outputs of all heads, [S, N]; one serves where the path is a single projection.
        """
        samples = samples[:1] if len(self.modules) == 1 else samples
        squares = [self._squares(heads, sample.float().clone()) for sample in samples]
        return torch.stack(squares).mean(0).sqrt().cpu()

    def _squares(self, heads: int, sample: Tensor) -> Tensor:
        by_head = torch.func.jacfwd(self)(sample).contiguous().view(-1, heads, len(sample) // heads)  # [E, H, D]
        squares: Tensor = by_head.square().sum((0, 2)).div(by_head.shape[2])
        return squares


def output_path(model: PreTrainedModel, layer: int) -> OutputPath:
    """Return a layer's way from the heads' outputs to the residual stream.

    Raises:
        UnsupportedModelError: see `path_modules`.
    """
    return OutputPath(path_modules(model, layer))


def path_modules(model: PreTrainedModel, layer: int) -> list[nn.Module]:
    """Return the modules that a layer's heads go through, in order; the model is asked once.

    Raises:
        UnsupportedModelError: no module takes the heads' outputs as they are (a gate, say, comes before).
    """
    modules = _paths(model)[layer]
    if not modules:
        raise UnsupportedModelError(
            f"{type(model).__name__}: how much a head counts in layer {layer} is not known, for no module takes the "
            "heads' outputs as they are; choose criterion='qada', which needs no weights of heads, or another model"
        )
    return modules


@once
def _paths(model: PreTrainedModel) -> dict[int, list[nn.Module]]:
    layers, outputs = geometry(model.config).full_layers, HeadOutputs()
    facts, visited = observe(model), {layer: list[Visit]() for layer in layers}
    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(visits(model.get_submodule(facts[layer].block), visited[layer]))
        run(model, random_tokens(model, TOKENS), 0, outputs)
    width = model.get_input_embeddings().weight.shape[-1]
    return {layer: _chain(visited[layer], outputs.of_layer[layer], width) for layer in layers}


def _chain(visited: Sequence[Visit], current: Tensor, width: int) -> list[nn.Module]:
    """Follow the heads' outputs from module to module; nothing where they end as no state of the residual stream."""
    modules = []
    for visit in visited:
        # All these tensors are still there, so that an address stands for one of them.
        if visit.entered.data_ptr() == current.data_ptr() and visit.entered.numel() == current.numel():
            modules.append(visit.module)
            current = visit.left
    return [] if current.shape[-1] != width else [each for each in modules if not isinstance(each, nn.Dropout)]

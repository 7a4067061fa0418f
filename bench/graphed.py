"""A dense model whose decoding steps are CUDA graphs: the peer of adaptive decoding on static caches."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from headscope.inference.cuda_graph import GraphedForward, forwarding


@contextmanager
def graphed(model: PreTrainedModel) -> Iterator[None]:
    """Inside the block the model, dense as it is, decodes static caches by graphs."""
    forward = model.get_decoder().forward
    steps = GraphedForward(model, forward)

    def served(*args: Any, **given: Any) -> Any:
        tokens = given.get("input_ids") if given.get("input_ids") is not None else given.get("inputs_embeds")
        if args or tokens is None or tokens.shape[1] > 1 or torch.compiler.is_compiling():
            return forward(*args, **given)
        return steps(**given)

    with forwarding(model, served):
        yield

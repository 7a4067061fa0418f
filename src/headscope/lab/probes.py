"""Probes: queries that questions and answers of other prompts asked, and how much each head counts.

Rules for outlier keys ask what such queries would attend to. Queries are kept as if they stood at position 0 and turned
to where they are needed, for keys are rotated.

Shapes: L full-attention layers, H query heads, Q queries, P probes, D head_dim.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from headscope.heads.bulk import Probes
from headscope.models.attention import LayerCall, attention, causal_attention
from headscope.models.geometry import geometry
from headscope.models.observe import entering, hooked, observe
from headscope.models.residual import output_path
from headscope.models.rotary import turn, verified_turn

OUTPUTS = 4
"""Outputs of all heads, of each prompt, at which a norm behind them is asked what a head counts."""


@dataclass(frozen=True)
class ModelProbes:
    """Probes of a whole model.

    Attributes:
        queries: of each full-attention layer, turned to position 0, [H, P, D], float32.
        weight: norm of the layer's output for a unit value of the head, as a share of the residual stream's norm, [H].
    """

    queries: dict[int, Tensor]
    weight: dict[int, Tensor]

    def joined(self, layers: Sequence[int]) -> "ModelProbes":
        """Those of several layers as if all heads were the first one's: their queries are turned alike."""
        return ModelProbes(
            *({layers[0]: torch.cat([of[layer] for layer in layers])} for of in (self.queries, self.weight))
        )

    def at(self, model: PreTrainedModel, layer: int, position: int) -> Probes:
        """The probes of a layer as if they stood at `position`."""
        device = model.get_input_embeddings().weight.device
        queries = self.queries[layer].to(device)
        origin = torch.zeros(queries.shape[1], dtype=torch.long, device=device)
        return Probes(turn(model, layer, queries, origin, origin + position), self.weight[layer].to(device))


class _Recorder:
    """Keeps some of the queries from the boundary on, turned to position 0, and some outputs of all heads."""

    def __init__(self, model: PreTrainedModel, boundary: int, count: int):
        self.model, self.boundary, self.count = model, boundary, count
        self.queries: dict[int, Tensor] = {}
        self.outputs: dict[int, Tensor] = {}

    def attend(self, call: LayerCall) -> Tensor:
        output = causal_attention(call)
        if call.sliding is None:
            position = self._positions(call, self.count)
            queries = call.query[0, :, position]
            self.queries[call.layer] = turn(self.model, call.layer, queries, position, torch.zeros_like(position))
            self.outputs[call.layer] = output[0, :, self._positions(call, OUTPUTS)].transpose(0, 1).flatten(1)
        return output

    def _positions(self, call: LayerCall, count: int) -> Tensor:
        """Spread positions evenly from the boundary to the last query."""
        last = call.query.shape[2] - 1
        return torch.linspace(self.boundary, last, count, device=call.query.device).round().long()


@torch.inference_mode()
def fit_probes(model: PreTrainedModel, prompts: Sequence[tuple[list[int], int]], count: int) -> ModelProbes:
    """Take about `count` queries a head, as many of each prompt, evenly from question and answer.

    Args:
        model: in evaluation mode.
        prompts: token ids with the dense model's answer, and the first token of the question; one forward pass each.
        count: probes a head, at least one a prompt.

    Raises:
        UnsupportedModelError: the model turns queries, or lets heads count, in no known way.
    """
    sizes = geometry(model.config)
    for layer in sizes.full_layers:
        verified_turn(model, layer)
    queries, outputs, norms = ({layer: list[Tensor]() for layer in sizes.full_layers} for _ in range(3))
    for ids, boundary in prompts:
        recorder = _Recorder(model, boundary, max(1, round(count / len(prompts))))
        tokens = torch.tensor([ids], device=model.get_input_embeddings().weight.device)
        with attention(model), _residual_norms(model, boundary, norms):
            model(tokens, use_cache=False, logits_to_keep=1, headscope=recorder)
        for layer in sizes.full_layers:
            queries[layer].append(recorder.queries[layer].cpu())
            outputs[layer].append(recorder.outputs[layer])
    weight = {
        layer: output_path(model, layer).norms(sizes.heads, torch.cat(outputs[layer]))
        / torch.stack(norms[layer]).mean()
        for layer in sizes.full_layers
    }
    return ModelProbes({layer: torch.cat(of_layer, 1) for layer, of_layer in queries.items()}, weight)


@contextmanager
def _residual_norms(model: PreTrainedModel, boundary: int, norms: dict[int, list[Tensor]]) -> Iterator[None]:
    """Collect the mean norm of the states that enter each layer, from the boundary on."""

    def keep(layer: int, states: Tensor) -> None:
        norms[layer].append(states[0, boundary:].float().norm(dim=-1).mean().cpu())

    hooks = (
        model.get_submodule(observe(model)[layer].block).register_forward_pre_hook(
            lambda _, arguments, named, layer=layer: keep(layer, entering(arguments, named)), with_kwargs=True
        )
        for layer in norms
    )
    with hooked(hooks):
        yield

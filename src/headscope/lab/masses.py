"""One dense forward pass that records exact and estimated log masses: from the question on, or of a prompt's sample.

Shapes: H query heads, K KV heads, Q recorded queries, T keys, D head_dim.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from headscope.heads.bulk import Bulk, LayerCache
from headscope.heads.estimators import Estimator
from headscope.heads.mass import Masses, log_masses, precise
from headscope.heads.window import Window
from headscope.kernels.common import device
from headscope.lab.scope import recorded_positions, summary_positions
from headscope.models.attention import LayerCall, attention, causal_attention


@dataclass(frozen=True)
class LayerMasses:
    """What one full-attention layer showed.

    Attributes:
        masses: exact log masses, [1, H, Q].
        estimates: estimated bulk log masses by the estimator's name, [H, Q].
        scores: raw bulk scores of the last prompt token's query, [H, bulk]; to see their distribution.
    """

    masses: Masses
    estimates: Mapping[str, Tensor]
    scores: Tensor


@dataclass
class _Recorder:
    """Records every full-attention layer at positions [Q] while the model attends densely.

    Summaries are made at `frozen_at`; each serves the queries up to the next. `prompt` is the prompt's length.
    """

    position: Tensor
    frozen_at: Sequence[int]
    prompt: int
    window: Window
    estimators: Sequence[Estimator]
    layers: dict[int, LayerMasses] = field(default_factory=dict)

    def attend(self, call: LayerCall) -> Tensor:
        """Attend densely, [1, H, T, D], and record; sliding layers are none of a criterion's business."""
        if call.sliding is None:
            self.layers[call.layer] = self._record(call)
        return causal_attention(call)

    def _record(self, call: LayerCall) -> LayerMasses:
        position = self.position.to(call.query.device)
        query = call.query[:, :, position]
        masses = exact_masses(query, call.key, position, self.window, call.scale)
        estimates = {e.name: self._estimate(e, call, query, masses.bulk_size) for e in self.estimators}
        return LayerMasses(masses, estimates, self._bulk_scores(call))

    def _estimate(self, estimator: Estimator, call: LayerCall, query: Tensor, bulk_size: Tensor) -> Tensor:
        """Estimated log masses, [H, Q], each by the summary that its query meets."""
        cache = LayerCache(call.layer, call.key[0], call.value[0], call.scale)
        ends = [*torch.searchsorted(self.position, torch.tensor(self.frozen_at[1:])).tolist(), len(self.position)]
        found = []
        for frozen, first, end in zip(self.frozen_at, [0, *ends], ends, strict=False):
            if first < end:
                summary = estimator.summarise(Bulk.between(cache, *self.window.summarised(frozen)))
                part = query[:, :, first:end], summary, bulk_size[first:end], call.scale
                found.append(estimator.log_mass(*part)[0])
        return torch.cat(found, 1)

    def _bulk_scores(self, call: LayerCall) -> Tensor:
        last = self.prompt - 1
        keys = precise(call.key[0, :, self.window.sink : max(self.window.sink, last - self.window.recent + 1)])
        query = precise(call.query[0, :, last]).view(keys.shape[0], -1, keys.shape[2])
        scores = query @ keys.transpose(1, 2) * call.scale
        return scores.flatten(0, 1)


def exact_masses(query: Tensor, key: Tensor, position: Tensor, window: Window, scale: float) -> Masses:
    """Compute log masses as `log_masses` does, by the GPU kernel where it serves these tensors."""
    if not device.serve(query, key):
        return log_masses(query, key, position, window, scale)
    from headscope.kernels.mass.masses import masses  # Triton is no part of a CPU build of torch

    return Masses(*masses(query, key, position, window.sink, window.recent, scale), window.bulk_size(position))


@torch.inference_mode()
def record_masses(
    model: PreTrainedModel,
    ids: Sequence[int],
    fed: Sequence[int],
    boundary: int,
    window: Window,
    estimators: Sequence[Estimator],
    chunk: int | None = None,
) -> dict[int, LayerMasses]:
    """Teacher-force a dense answer behind the prompt and record every full-attention layer.

    Args:
        model: in evaluation mode.
        ids: the prompt's tokens.
        fed: the tokens of the dense model's own greedy answer that it read again: all of them if it stopped by itself,
            all but the last at the length limit.
        boundary: first token of the question.
        window: which keys are local.
        estimators: of the bulk's log mass.
        chunk: with `scope=prompt`, tokens of a chunk of the context; the queries are those of `recorded_positions`.
    """
    position = recorded_positions(window, boundary, len(ids) + len(fed), chunk)
    recorder = _Recorder(position, summary_positions(window, boundary, chunk), len(ids), window, estimators)
    tokens = torch.tensor([[*ids, *fed]], device=model.get_input_embeddings().weight.device)
    with attention(model):
        model(tokens, use_cache=False, logits_to_keep=1, headscope=recorder)
    return recorder.layers

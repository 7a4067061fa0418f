"""One dense forward pass that diagnoses the Gaussian model of the bulk in every full-attention layer.

Shapes: H query heads, K KV heads, T keys, D head_dim, Z quantiles.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from headscope.heads.gaussian_fit import Layer, effective_rank, score_quantiles, spectrum, window_fit
from headscope.heads.window import Window
from headscope.models.attention import LayerCall, attention, causal_attention
from headscope.models.rotary import turn


@dataclass(frozen=True)
class LayerDiagnosis:
    """What one layer showed.

    Attributes:
        fits: measures by window, [H] each, as `window_fit` has them.
        queries: number of queries with a bulk, by window.
        eigenvalues: of the bulk keys' covariance with the first window, as shares of its trace, [K, D].
        effective_rank: participation ratio of the eigenvalues, [K].
        slow_share: share of the trace in dimensions that rotate less than once in the sequence, [K].
        quantiles: of standardised scores with the first window, [H, Z].
    """

    fits: dict[Window, dict[str, Tensor]]
    queries: dict[Window, int]
    eigenvalues: Tensor
    effective_rank: Tensor
    slow_share: Tensor
    quantiles: Tensor


@dataclass
class _Recorder:
    """Diagnoses every full-attention layer while the model attends densely."""

    model: PreTrainedModel
    boundary: int
    windows: Sequence[Window]
    layers: dict[int, LayerDiagnosis] = field(default_factory=dict)

    def attend(self, call: LayerCall) -> Tensor:
        """Attend densely, [1, H, T, D]."""
        if call.sliding is None:
            self.layers[call.layer] = self._diagnosed(call)
        return causal_attention(call)

    def _diagnosed(self, call: LayerCall) -> LayerDiagnosis:
        layer = Layer(call.query[0, :, self.boundary :], call.key[0], self.boundary, call.scale)
        covariance = layer.moments(self.windows[0]).covariance
        variance, shares = covariance.diagonal(dim1=1, dim2=2), spectrum(covariance)
        slow = wavelengths(self.model, call.layer, *call.key.shape[2:]) > call.key.shape[2]
        return LayerDiagnosis(
            {window: window_fit(layer, window) for window in self.windows},
            {window: len(layer.with_bulk(window)) for window in self.windows},
            shares,
            effective_rank(shares),
            variance[:, slow.to(variance.device)].sum(1) / variance.sum(1),
            score_quantiles(layer, self.windows[0]),
        )


def wavelengths(model: PreTrainedModel, layer: int, length: int, dim: int) -> Tensor:
    """Positions in which RoPE turns each head dimension once round, [D]; infinite where the model does not rotate it.

    Args:
        model: with rotary embeddings.
        layer: index of the layer.
        length: tokens of the sequence, on which some scalings of RoPE depend.
        dim: size of a head.
    """
    device = model.get_input_embeddings().weight.device
    # The row of zeros more stands at the last position, which tells a dynamic scaling the length.
    units = torch.eye(dim + 1, dim, device=device)
    after = torch.ones(dim + 1, dtype=torch.long, device=device)
    after[-1] = length - 1
    turned = turn(model, layer, units[None], torch.zeros_like(after), after)[0, :-1]
    cosine = turned.diagonal()
    # Of a slow pair the cosine is 1 in float32; the sine, all that leaves the diagonal, keeps the angle.
    angle = torch.atan2((turned - cosine.diag()).norm(dim=1), cosine)
    return 2 * math.pi / angle


@torch.inference_mode()
def diagnose(
    model: PreTrainedModel, ids: Sequence[int], boundary: int, windows: Sequence[Window]
) -> dict[int, LayerDiagnosis]:
    """Diagnose every full-attention layer on one sequence.

    Args:
        model: in evaluation mode.
        ids: the prompt's tokens and those of the dense answer that were read again.
        boundary: first token of the question.
        windows: to measure with; of the first one the covariance and quantiles are told too.
    """
    recorder = _Recorder(model, boundary, windows)
    tokens = torch.tensor([list(ids)], device=model.get_input_embeddings().weight.device)
    with attention(model):
        model(tokens, use_cache=False, logits_to_keep=1, headscope=recorder)
    return recorder.layers

"""A batch that decides while its prompts are read (`scope=prompt`): local pairs never see what is outside their window.

As the workflow has it: the queries of a chunk meet the Gaussian of the keys that its start finds outside the window. In
half precision on a GPU the kernels decide and attend, elsewhere their torch reference, which is right and not fast.

Shapes: B rows, H query heads, K KV heads, T tokens, S starts of chunks, D head_dim.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from headscope.heads.mass import precise
from headscope.heads.moments import KeyMoments
from headscope.heads.window import Window
from headscope.inference.boundary import scale_of
from headscope.inference.criterion import AdaptiveCriterion
from headscope.kernels.common import device
from headscope.kernels.common.layer import Decided, DecisionRule
from headscope.kernels.prefill import reference
from headscope.lab.counts import LocalCounts
from headscope.lab.scope import summary_positions
from headscope.models.geometry import geometry


class AdaptivePrefill:
    """One forward of whole prompts; handed to the attention function as its keyword `headscope`.

    Attributes:
        layers: factor of the scores of the full-attention layers.
        counts: labels given so far.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        criterion: AdaptiveCriterion,
        threshold: float,
        first_keys: Sequence[int],
        length: int,
    ):
        """Make ready for a forward.

        Args:
            model: in evaluation mode.
            criterion: calibrated for it with `scope=prompt`.
            threshold: of the margin.
            first_keys: of each row, behind its padding.
            length: tokens of the forward, padding included.
        """
        self.layers = {layer: scale_of(model, layer) for layer in geometry(model.config).full_layers}
        self.counts = LocalCounts(len(first_keys))
        self._criterion, self._threshold, self._window = criterion, threshold, criterion.window
        self._length, device = length, model.get_input_embeddings().weight.device
        # Rows without padding go together, others one by one, each from its own first key on.
        rows = [(slice(b, b + 1), first) for b, first in enumerate(first_keys)]
        self._padded = any(first_keys)
        rows = rows if self._padded else [(slice(None), 0)]
        self._rows = [(some, first, self._starts(length - first).to(device)) for some, first in rows]
        position = torch.arange(length, device=device) - torch.tensor(first_keys, device=device)[:, None]
        self._counted = self._window.bulk_size(position) > 0

    def _starts(self, tokens: int) -> Tensor:
        """Where a row's chunks start, [S]; a prompt within the window meets a summary of nothing and has no bulk."""
        return torch.tensor(summary_positions(self._window, tokens, self._criterion.chunk)[:-1] or [0])

    @torch.no_grad()
    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Causal attention of the prompts over all keys or each query's window, [B, H, T, D]; zero at padding.

        Args:
            layer: index of the layer.
            query: rotated, [B, H, T, D].
            key: rotated, [B, K, T or more, D]; what a static cache holds behind the prompt is not looked at.
            value: the same of the values.
        """
        parts = []
        for rows, first, starts in self._rows:
            some = rows, slice(None), slice(first, self._length)
            parts.append(self._decided(layer, query[some], key[some], value[some], starts.to(query.device)))
        found = self._together(query, parts) if self._padded else parts[0]
        self._counted = self._counted.to(query.device)
        self.counts.add(layer, found.long, key.shape[1], self._counted)
        return found.output

    def _together(self, query: Tensor, parts: Sequence[Decided]) -> Decided:
        # In the query's memory format, tokens before heads, which is what the model goes on with.
        output, long = torch.zeros_like(query), torch.zeros(query.shape[:3], dtype=torch.bool, device=query.device)
        for (rows, first, _), part in zip(self._rows, parts, strict=True):
            output[rows, :, first:], long[rows, :, first:] = part.output, part.long
        return Decided(output, long)

    def _decided(self, layer: int, query: Tensor, key: Tensor, value: Tensor, starts: Tensor) -> Decided:
        rows, heads = query.shape[:2]
        rule = self._criterion.rule(layer, self._threshold, rows, heads, query.device)
        attend = _by_kernels if device.serve(*(x.detach() for x in (query, key, value))) else _by_reference
        return attend(query, key, value, starts, rule, self._window, self.layers[layer])


def _by_kernels(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, rule: DecisionRule, window: Window, scale: float
) -> Decided:
    from headscope.kernels.prefill.attend import attend_prompt  # Triton is no part of a CPU build of torch
    from headscope.kernels.prefill.prefix_moments import PrefixMoments

    # Triton launches on the current GPU, which may not be this layer's.
    with torch.cuda.device_of(query):  # type: ignore[no-untyped-call]
        prefix = PrefixMoments.of(key, starts, window.sink, window.recent)
        return attend_prompt(query, key, value, prefix, rule, window.sink, window.recent, scale)


def _by_reference(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, rule: DecisionRule, window: Window, scale: float
) -> Decided:
    """In single precision or better."""
    keys, meets = key.flatten(0, 1), reference.summary_of_each_token(starts, query.shape[2])
    moments = [KeyMoments.of(keys[:, slice(*window.summarised(start))]) for start in starts.tolist()]
    mean = torch.stack([found.mean for found in moments], 1).view(*key.shape[:2], len(starts), -1)
    covariance = torch.stack([found.covariance for found in moments], 1).view(*mean.shape, -1)
    exact = precise(query), precise(key), precise(value), mean, covariance
    found = reference.attend_prompt(*exact, meets, rule, window.sink, window.recent, scale)
    return Decided(found.output.to(query.dtype), found.long)

"""A batch that decides while its prompts are read (`scope=prompt`): local pairs never see what is outside their window.

The queries of a chunk use the Gaussian of the keys that its start finds outside the window. In half precision on a GPU
the kernels decide and attend, elsewhere the lab's engine, chunk by chunk.

Shapes: B rows, H query heads, K KV heads, T tokens, S starts of chunks, D head_dim.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from transformers import PreTrainedModel

from headscope.heads.bulk import LayerCache
from headscope.heads.criteria import Criterion
from headscope.heads.mass import precise
from headscope.heads.quantised import FULL
from headscope.heads.reading import decision_bytes
from headscope.inference.criterion import AdaptiveCriterion
from headscope.inference.kernel_inputs import decision_rule, kernels_express
from headscope.kernels.common import device
from headscope.lab.counts import ReadingCounts, Sizes
from headscope.lab.rows import Rows
from headscope.lab.scope import summary_positions
from headscope.lab.shared_prefix import SharedPrefix
from headscope.models.attention import LayerCall, causal_attention
from headscope.models.observe import scales_of


class AdaptivePrefill:
    """One forward of whole prompts; handed to the attention function as its keyword `headscope`.

    Attributes:
        layers: factor of the scores of the full-attention layers.
        counts: what each row read so far.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        criterion: AdaptiveCriterion,
        built: Criterion,
        first_keys: Sequence[int],
        length: int,
    ):
        """Make ready for a forward.

        Args:
            model: in evaluation mode.
            criterion: calibrated for it with `scope=prompt`.
            built: the same as a criterion of one row.
            first_keys: of each row, behind its padding.
            length: tokens of the forward, padding included.
        """
        self.layers = scales_of(model)
        self._criterion, self._built, self._window = criterion, built, criterion.window
        self._sizes = Sizes.of(model.config, criterion.window)
        self.counts, self._first_keys, self._length = ReadingCounts(len(first_keys), self._sizes), first_keys, length

    @torch.no_grad()
    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Compute causal attention of the prompts over all keys or each query's window, [B, H, T, D]; zero at padding.

        Args:
            layer: index of the layer.
            query: rotated, [B, H, T, D].
            key: rotated, [B, K, T or more, D]; what a static cache holds behind the prompt is not looked at.
            value: the same of the values.
        """
        key, value = (x[:, :, : self._length] for x in (key, value))
        served = kernels_express(self._built) and device.serve(*(x.detach() for x in (query, key, value)))
        if served and not any(self._first_keys):
            return self._by_kernels(layer, query, key, value, self.counts)
        # In the query's memory format, tokens before heads, which is what the model goes on with.
        output = torch.zeros_like(query)
        attend = self._by_kernels if served else self._plainly
        for row, first in enumerate(self._first_keys):
            behind = slice(row, row + 1), slice(None), slice(first, None)
            output[behind] = attend(layer, query[behind], key[behind], value[behind], self.counts.of_row(row))
        return output

    def _bounds(self, tokens: int) -> list[int]:
        """Return where a row's chunks start, and its end."""
        return summary_positions(self._window, tokens, self._criterion.chunk)

    def _by_kernels(self, layer: int, query: Tensor, key: Tensor, value: Tensor, counts: ReadingCounts) -> Tensor:
        """Attend of rows without padding, [B, H, T, D]."""
        from headscope.kernels.prefill.attend import attend_prompt  # Triton is no part of a CPU build of torch
        from headscope.kernels.prefill.prefix_moments import PrefixMoments

        window, (rows, heads, tokens, _) = self._window, query.shape
        # A prompt within the window has a summary of nothing and no bulk.
        starts = torch.tensor(self._bounds(tokens)[:-1] or [0], device=query.device)
        rule = decision_rule(self._built, layer, rows, heads, query.device)
        # Triton launches on the current GPU, which may not be this layer's.
        with torch.cuda.device_of(query):  # type: ignore[no-untyped-call]
            prefix = PrefixMoments.of(key, starts, window.sink, window.recent)
            scale = self.layers[layer]
            decided = attend_prompt(query, key, value, prefix, rule, window.sink, window.recent, scale)
        position = torch.arange(tokens, device=query.device)
        counted = (window.bulk_size(position) > 0).expand(rows, -1)
        counts.add(layer, decided.long, counted, position + 1, self._decision_bytes(rows, key))
        return decided.output

    def _decision_bytes(self, rows: int, key: Tensor) -> Tensor:
        """Return the bytes that a decision reads beside the plain window, over all KV heads, float64 [B]."""
        none = torch.zeros(rows, key.shape[1], device=key.device)
        return decision_bytes(none, FULL, self._built.summary_numbers(key.shape[3]), key.shape[3]).sum(1)

    def _plainly(self, layer: int, query: Tensor, key: Tensor, value: Tensor, counts: ReadingCounts) -> Tensor:
        """Attend of one row without padding, [1, H, T, D]: chunk after chunk by the lab's engine."""
        bounds, scale, dtype = self._bounds(query.shape[2]), self.layers[layer], query.dtype
        query, key, value = (precise(x) for x in (query, key, value))

        def call(start: int, end: int) -> LayerCall:
            some = slice(None), slice(None), slice(start, end)
            return LayerCall(layer, query[some], key[some], value[some], scale, None)

        outputs = [causal_attention(call(0, bounds[0]))]
        for start, end in pairwise(bounds):
            prefix = {layer: LayerCache(layer, key[0, :, :start], value[0, :, :start], scale)}
            chunk = SharedPrefix(prefix, [Rows(self._built)], self._window, counts)
            outputs.append(chunk.attend(call(start, end)))
        return torch.cat(outputs, 2).to(dtype)

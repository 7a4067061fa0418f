"""Attention of many rows over one shared prefix, each row under its criterion.

Shapes: R rows, H query heads, K KV heads, G = H // K, Q queries, P prefix keys, S own keys of a row, D head_dim.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from headscope.heads.bulk import Bulk, LayerCache
from headscope.heads.criteria import Criterion, LayerView
from headscope.heads.mass import group_heads, masked_log_mass, precise, query_chunks
from headscope.heads.window import Window
from headscope.models.attention import LayerCall
from headscope.models.counts import LocalCounts


class SharedPrefix:
    """State of a batch of rows; handed to the model as its forward keyword.

    Attributes:
        length: P, tokens of the prefix.
        rows: rows still decoding.
        counts: labels given so far, of all rows.
    """

    def __init__(self, prefix: Sequence[LayerCache], criteria: Sequence[tuple[Criterion, int]], window: Window):
        self.prefix, self.window = prefix, window
        self.length = prefix[0].keys.shape[1]
        self.groups = list(criteria)
        self.rows = sum(rows for _, rows in criteria)
        self.counts = LocalCounts(self.rows)
        between = window.summarised(self.length)
        used = {c.estimator.name: c.estimator for c, _ in criteria if c.estimator is not None}
        self.summaries = [
            {name: estimator.summarise(Bulk.between(layer, *between)) for name, estimator in used.items()}
            for layer in prefix
        ]

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows (indices into the present ones) alone."""
        groups, first = [], 0
        for criterion, size in self.groups:
            inside = rows[(rows >= first) & (rows < first + size)] - first
            if len(inside):
                groups.append((criterion.take(inside), len(inside)))
            first += size
        self.groups, self.rows = groups, len(rows)
        self.counts.keep(rows)

    def attend(self, call: LayerCall) -> Tensor:
        """Attention of every row over prefix and own keys, [R, H, Q, D], in chunks of queries."""
        keys = self.length + call.key.shape[2]
        scores_per_query = call.query.shape[0] * call.query.shape[1] * keys
        parts = [self._attend(call, part) for part in query_chunks(call.query.shape[2], scores_per_query)]
        return torch.cat(parts, dim=2)

    def _attend(self, call: LayerCall, part: slice) -> Tensor:
        query = call.query[:, :, part]
        device, own = query.device, call.key.shape[2]
        offset = self.length + own - call.query.shape[2]
        position = torch.arange(part.start, part.stop, device=device) + offset
        key_position = torch.arange(self.length + own, device=device)
        scores = self._scores(call, query)
        if call.sliding is None:
            local, bulk = self.window.local(position, key_position), self.window.bulk(position, key_position)
            long = self._select(call, query, scores, position, local, bulk)
            visible = local | (bulk & long[..., None])
        else:
            visible = Window(0, call.sliding).local(position, key_position)
        # A query sees at least its own key, so no row of the softmax is empty.
        weights = scores.masked_fill_(~visible, -torch.inf).softmax(-1)
        return self._weighted_values(call, weights).to(query.dtype)

    def _select(
        self, call: LayerCall, query: Tensor, scores: Tensor, position: Tensor, local: Tensor, bulk: Tensor
    ) -> Tensor:
        """Ask every criterion about its rows: bool [R, H, Q]."""
        columns = local.any(0).nonzero()[:, 0]
        window_mass = masked_log_mass(scores[..., columns], local[:, columns])
        bulk_size = self.window.bulk_size(position)
        long, first = [], 0
        for criterion, size in self.groups:
            rows = slice(first, first + size)
            view = LayerView(
                call.layer,
                call.scale,
                window_mass[rows],
                bulk_size,
                self.summaries[call.layer],
                _bulk_mass(scores[rows], bulk),
            )
            long.append(criterion.select(query[rows], view).long)
            first += size
        labels = torch.cat(long)
        self.counts.add(call.layer, labels, call.key.shape[1], bulk_size > 0)
        return labels

    def _scores(self, call: LayerCall, query: Tensor) -> Tensor:
        """Scores of prefix and own keys, [R, H, Q, P + S]; one product reads the prefix for all rows."""
        rows, heads, queries, _ = query.shape
        prefix, own = precise(self.prefix[call.layer].keys), precise(call.key)
        grouped = group_heads(precise(query), own.shape[1])
        shared = grouped.transpose(0, 1).flatten(1, 3) @ prefix.transpose(1, 2)
        shared = shared.view(own.shape[1], rows, -1, queries, self.length).transpose(0, 1)
        separate = grouped @ own.transpose(2, 3)[:, :, None]
        scores = torch.cat([shared, separate], dim=-1).view(rows, heads, queries, -1)
        return scores.mul_(call.scale)

    def _weighted_values(self, call: LayerCall, weights: Tensor) -> Tensor:
        """Sum the values under [R, H, Q, P + S] weights: [R, H, Q, D]."""
        rows, heads, queries, _ = weights.shape
        prefix, own = precise(self.prefix[call.layer].values), precise(call.value)
        grouped = group_heads(weights, own.shape[1])
        shared = grouped[..., : self.length].transpose(0, 1).flatten(1, 3) @ prefix
        shared = shared.view(own.shape[1], rows, -1, queries, prefix.shape[-1]).transpose(0, 1)
        separate = grouped[..., self.length :] @ own[:, :, None]
        return (shared + separate).reshape(rows, heads, queries, -1)


def _bulk_mass(scores: Tensor, bulk: Tensor) -> Callable[[], Tensor]:
    return lambda: masked_log_mass(scores, bulk)

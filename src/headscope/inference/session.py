"""What happens inside a block of `headscope.adaptive`: where boundaries are, and the steps behind them."""

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from headscope.errors import ConfigError
from headscope.heads.to_device import to_device
from headscope.inference.adaptive_decode import AdaptiveDecode
from headscope.inference.adaptive_prefill import AdaptivePrefill
from headscope.inference.boundary import boundary_states
from headscope.inference.cache_rows import first_keys, pairs, refuse_other_than_causal, writes
from headscope.inference.criterion import AdaptiveCriterion
from headscope.inference.cuda_graph import GraphedForward
from headscope.lab.counts import LocalCounts
from headscope.models.geometry import geometry

UNCOMPILED = "headscope decides outside of compiled graphs: compile with fullgraph=False"


class Sparsity(NamedTuple):
    """Shares of local pairs, over the queries that had a bulk; NaN without any.

    Attributes:
        head: of (query, query head) pairs.
        group: of (query, KV group) pairs; a group is local, and its keys unread, only if all of its heads are.
        queries: how many were counted, the sum over rows.
    """

    head: float
    group: float
    queries: int


class Fed(NamedTuple):
    """What the last step was fed, and left.

    Attributes:
        cache: which one.
        length: its keys behind the step.
        writes: to its length, by which it is known without waiting for the GPU that nobody else wrote; None: ask.
    """

    cache: weakref.ref[Any]
    length: int
    writes: tuple[Tensor, int] | None


class Session:
    """What happens inside a block."""

    def __init__(self, model: PreTrainedModel, criterion: AdaptiveCriterion, threshold: float):
        device = model.get_input_embeddings().weight.device
        there = replace(criterion, probes=to_device(criterion.probes, device), map=to_device(criterion.map, device))
        self._model, self._criterion, self._threshold = model, there, threshold
        self._full = geometry(model.config).full_layers
        eos = getattr(model.generation_config, "eos_token_id", None)
        self._stops = torch.tensor([] if eos is None else eos, dtype=torch.long).flatten()
        self._decoding: AdaptiveDecode | None = None
        self._idle: AdaptiveDecode | None = None
        self._fed: Fed | None = None
        self._length_now = 0
        self._ended: list[LocalCounts] = []
        self._read: list[LocalCounts] = []
        self._decoder = model.get_decoder()
        self._dense = self._decoder.forward
        self._captured = GraphedForward(model, self._step)

    @property
    def rows(self) -> list[Sparsity]:
        """Of each row of each boundary, in order; a row counts until it is fed a stop token of the model's."""
        counts = [*self._ended, *([] if self._decoding is None else [self._decoding.counts()])]
        return _by_row(counts)

    @property
    def prompts(self) -> list[Sparsity]:
        """The same of each row of each prompt that was decided (`scope=prompt`), in order."""
        return _by_row(self._read)

    @property
    def sparsity(self) -> Sparsity:
        """Mean over rows, each of which weighs the same."""
        known = [row for row in self.rows if row.queries]
        if not known:
            return Sparsity(float("nan"), float("nan"), 0)
        head, group, queries = (sum(values) for values in zip(*known, strict=True))
        return Sparsity(head / len(known), group / len(known), int(queries))

    def forward(self, *args: Any, **given: Any) -> Any:
        """In place of the decoder's: where one token follows a cache, the attention function is handed the decision.

        Raises:
            ConfigError: the model is in training mode.
            UnsupportedModelError: the cache or the mask is of a kind that is not served.
        """
        decoding = self._before(args, given)
        if not isinstance(decoding, AdaptiveDecode):
            output = self._dense(*args, headscope=decoding, **given)
            self._after_prompts(decoding)
            return output
        if args or not decoding.by_kernels or torch.compiler.is_compiling():
            output = self._step(*args, headscope=decoding, **given)
        else:
            output = self._captured(headscope=decoding, **given)
        self._after(given["past_key_values"])
        return output

    def _step(self, *args: Any, headscope: AdaptiveDecode, **given: Any) -> Any:
        headscope.step(given.get("input_ids", args[0] if args else None))
        output = self._dense(*args, headscope=headscope, **given)
        headscope.count()
        return output

    @torch.compiler.disable(reason=UNCOMPILED)  # type: ignore[untyped-decorator,no-untyped-call]
    def _before(self, args: tuple[Any, ...], given: Mapping[str, Any]) -> AdaptiveDecode | AdaptivePrefill | None:
        """The rows that decode, behind a boundary if they are new, or prompts; None: nothing is decided."""
        if self._decoder.training:
            raise ConfigError("the model is in training mode (model.training = True); call model.eval()")
        ids, cache = given.get("input_ids", args[0] if args else None), given.get("past_key_values")
        tokens, length = ids if ids is not None else given["inputs_embeds"], self._length(cache)
        if tokens.shape[1] > 1 or not length:
            self.end()
            return None if length or self._criterion.chunk is None else self._prefilling(tokens, given)
        fed, self._fed = self._fed, None  # an error on the way leaves nothing to go on from
        if self._decoding is None or fed is None or fed.cache() is not cache or fed.length != length:
            self.end()
            self._decoding = self._at_boundary(cache, length, tokens, given)
        self._length_now = length
        return self._decoding

    @torch.compiler.disable(reason=UNCOMPILED)  # type: ignore[untyped-decorator,no-untyped-call]
    def _after(self, cache: Any) -> None:
        self._fed = Fed(weakref.ref(cache), self._length_now + 1, writes(cache, self._full[0]))

    @torch.compiler.disable(reason=UNCOMPILED)  # type: ignore[untyped-decorator,no-untyped-call]
    def _after_prompts(self, prompts: AdaptivePrefill | None) -> None:
        self._read += [] if prompts is None else [prompts.counts]

    def _length(self, cache: Any) -> int:
        """Keys of a cache; a static one is asked, which waits for the GPU, if it was written to since the last step."""
        if cache is None:
            return 0
        fed = self._fed
        if fed is not None and fed.writes is not None and fed.cache() is cache:
            now = writes(cache, self._full[0])
            if now is not None and now[0] is fed.writes[0] and now[1] == fed.writes[1]:
                return fed.length
        return int(cache.get_seq_length(self._full[0]))

    def _prefilling(self, tokens: Tensor, given: Mapping[str, Any]) -> AdaptivePrefill:
        (rows, length), mask = tokens.shape[:2], given.get("attention_mask")
        starts = first_keys(mask, rows, length)
        refuse_other_than_causal(mask, given.get("position_ids"), starts, length)
        return AdaptivePrefill(self._model, self._criterion, self._threshold, starts, length)

    def _at_boundary(self, cache: Any, length: int, tokens: Tensor, given: Mapping[str, Any]) -> AdaptiveDecode:
        rows, positions = len(tokens), given.get("position_ids")
        starts = first_keys(given.get("attention_mask"), rows, length)
        at = [length] * rows if positions is None else positions.expand(rows, -1)[:, 0].tolist()
        caches, spans = pairs(cache, self._full), [(start, length) for start in starts]
        layers = boundary_states(self._model, self._criterion, self._threshold, caches, spans, at)
        if self._idle is not None and self._idle.again(layers, starts, length):
            return self._idle
        self._release()
        self._stops = self._stops.to(tokens.device)
        return AdaptiveDecode(layers, starts, length, self._criterion.window, self._stops)

    def end(self) -> None:
        """Leave what decodes; the counts stay, and its memory for rows of the same shapes."""
        if self._decoding is not None:
            self._ended.append(self._decoding.counts())
            self._idle, self._decoding = self._decoding, None

    def close(self) -> None:
        """End, and let go of memory and graph."""
        self.end()
        self._release()

    def _release(self) -> None:
        self._idle = None
        self._captured.drop()


def _by_row(counts: Sequence[LocalCounts]) -> list[Sparsity]:
    return [Sparsity(*of.sparsity(row), of.queries(row)) for of in counts for row in range(of.rows)]

"""`headscope.adaptive`: a model generates as always, but each head reads the long context only where it must.

Forwards of several tokens (the prompt, a next turn, candidates of assisted decoding) attend densely by transformers'
own SDPA function; where they end is a boundary. Each forward of one token behind it is decided, from the first
generated token on. Sliding layers are left alone.

Shapes: B rows, H query heads, K KV heads, T keys, D head_dim.
"""

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from headscope.errors import ConfigError, UnsupportedModelError
from headscope.models.adaptive_criterion import AdaptiveCriterion
from headscope.models.boundary import states
from headscope.models.cache_rows import first_keys, pairs, writes
from headscope.models.captured import Captured, forwarding
from headscope.models.counts import LocalCounts
from headscope.models.decoding import Decoding
from headscope.models.geometry import geometry
from headscope.models.identity import refuse_other

NAME = "headscope_adaptive"
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


class Run:
    """What happens inside a block."""

    def __init__(self, model: PreTrainedModel, criterion: AdaptiveCriterion, threshold: float):
        self._model, self._criterion, self._threshold = model, criterion, threshold
        self._full = geometry(model.config).full_layers
        eos = getattr(model.generation_config, "eos_token_id", None)
        self._stops = torch.tensor([] if eos is None else eos, dtype=torch.long).flatten()
        self._decoding: Decoding | None = None
        self._idle: Decoding | None = None
        self._fed: Fed | None = None
        self._ended: list[LocalCounts] = []
        self._dense = model.get_decoder().forward
        self._captured = Captured(model, self._step)

    @property
    def rows(self) -> list[Sparsity]:
        """Of each row of each boundary, in order; a row counts until it is fed a stop token of the model's."""
        counts = [*self._ended, *([] if self._decoding is None else [self._decoding.counts()])]
        return [Sparsity(*of.sparsity(row), of.queries(row)) for of in counts for row in range(of.rows)]

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
        if decoding is None:
            return self._dense(*args, **given)
        if args or not decoding.by_kernels or torch.compiler.is_compiling():
            output = self._step(*args, headscope=decoding, **given)
        else:
            output = self._captured(headscope=decoding, **given)
        self._after(given["past_key_values"])
        return output

    def _step(self, *args: Any, headscope: Decoding, **given: Any) -> Any:
        headscope.step(given.get("input_ids", args[0] if args else None))
        output = self._dense(*args, headscope=headscope, **given)
        headscope.count()
        return output

    @torch.compiler.disable(reason=UNCOMPILED)  # type: ignore[untyped-decorator,no-untyped-call]
    def _before(self, args: tuple[Any, ...], given: Mapping[str, Any]) -> Decoding | None:
        """The rows that decode, behind a boundary if they are new; None: there is nothing to decide about."""
        if self._model.training:
            raise ConfigError("the model is in training mode (model.training = True); call model.eval()")
        ids, cache = given.get("input_ids", args[0] if args else None), given.get("past_key_values")
        tokens, length = ids if ids is not None else given["inputs_embeds"], self._length(cache)
        if tokens.shape[1] > 1 or not length:
            self.end()
            return None
        fed, self._fed = self._fed, None  # an error on the way leaves nothing to go on from
        if self._decoding is None or fed is None or fed.cache() is not cache or fed.length != length:
            self.end()
            self._decoding = self._at_boundary(cache, length, tokens, given)
        self._now = length
        return self._decoding

    @torch.compiler.disable(reason=UNCOMPILED)  # type: ignore[untyped-decorator,no-untyped-call]
    def _after(self, cache: Any) -> None:
        self._fed = Fed(weakref.ref(cache), self._now + 1, writes(cache, self._full[0]))

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

    def _at_boundary(self, cache: Any, length: int, tokens: Tensor, given: Mapping[str, Any]) -> Decoding:
        rows, positions = len(tokens), given.get("position_ids")
        starts = first_keys(given.get("attention_mask"), rows, length)
        at = [length] * rows if positions is None else positions.expand(rows, -1)[:, 0].tolist()
        caches, spans = pairs(cache, self._full), [(start, length) for start in starts]
        layers = states(self._model, self._criterion, self._threshold, caches, spans, at)
        if self._idle is not None and self._idle.again(layers, starts, length):
            return self._idle
        self._release()
        self._stops = self._stops.to(tokens.device)
        return Decoding(layers, starts, length, self._criterion.window, self._stops)

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


@torch.compiler.disable(reason=UNCOMPILED)  # type: ignore[untyped-decorator,no-untyped-call]
def _forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    headscope: Decoding | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """The registered function; the signature is transformers'. What the cache's rows hold needs no mask."""
    layer: int = module.layer_idx  # type: ignore[assignment]
    if headscope is None or layer not in headscope.layers:
        found: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return found
    return headscope.attend(layer, query, key, value).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, _forward)
AttentionMaskInterface.register(NAME, sdpa_mask)


def _refuse_beams(*_: Any) -> NoReturn:
    raise UnsupportedModelError("num_beams > 1 reorders rows, which is not served; use num_beams=1")


@contextmanager
def adaptive(model: PreTrainedModel, criterion: AdaptiveCriterion, sparsity: float | None = None) -> Iterator[Run]:
    """Inside the block the model's heads read the long context only where the criterion asks for it.

    Greedy decoding, sampling, several return sequences, batches padded on the left, dynamic and static caches and
    `torch.compile` (with a graph break at each attention call) are served. At the first generated token the rows'
    outliers and summaries are made, which takes a pass over the cache for each row; the mask is read then.

    Steps on a static cache are fastest: on a GPU they are replayed from a CUDA graph (`headscope.models.captured`),
    the third behind a boundary first. Compiled steps are not captured; `generate` compiles only where it is given a
    `compile_config`, not by itself as it does outside. Weights must stay where they are inside the block.

    Args:
        model: in evaluation mode; the one that the criterion was calibrated for.
        criterion: from `headscope.calibrate` or `headscope.load`.
        sparsity: a target that was calibrated; None: the only or first one.

    Yields:
        A run whose `sparsity`, and `rows` for each row, say how many pairs were local.

    Raises:
        ConfigError: blocks are nested, the target was not calibrated or the model is in training mode.
        AssetError: the criterion belongs to another model.
        UnsupportedModelError: beams, a mask that is no left padding, or another kind of cache.
    """
    refuse_nested(model)
    refuse_other(criterion.model, model)
    run = Run(model, criterion, criterion.threshold(sparsity))
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    model._reorder_cache = _refuse_beams  # what transformers calls to reorder rows, if it is there
    try:
        with forwarding(model, run.forward):
            yield run
    finally:
        del model._reorder_cache
        model.set_attn_implementation(before)
        run.close()


def refuse_nested(model: PreTrainedModel) -> None:
    """Refuse a model that is inside a block.

    Raises:
        ConfigError: it is.
    """
    if model.config._attn_implementation == NAME:
        raise ConfigError("the model is inside an `adaptive` block already; leave it first, blocks do not nest")

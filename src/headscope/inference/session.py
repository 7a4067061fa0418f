"""What happens inside a block of `headscope.adaptive`: where boundaries are, and the steps behind them."""

import threading
import weakref
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple, NoReturn, SupportsIndex

import torch
from torch import Tensor
from transformers import PreTrainedModel

from headscope.errors import UnsupportedModelError
from headscope.heads.to_device import to_device
from headscope.inference.adaptive_prefill import AdaptivePrefill
from headscope.inference.arguments import refuse_training
from headscope.inference.boundary import Batch, boundary_states
from headscope.inference.cache_rows import (
    Memory,
    first_keys,
    memory,
    pairs,
    refuse_moved_rows,
    refuse_other_than_causal,
    writes,
)
from headscope.inference.criterion import AdaptiveCriterion
from headscope.inference.cuda_graph import GraphedForward
from headscope.inference.kernel_decode import KernelDecode
from headscope.inference.kernel_inputs import kernels_express
from headscope.inference.plain_decode import PlainDecode
from headscope.kernels.common import device
from headscope.lab.counts import Shares, Sizes
from headscope.models.geometry import geometry

UNCOMPILED = "headscope decides outside of compiled graphs: compile with fullgraph=False"


Decode = KernelDecode | PlainDecode


class Fed(NamedTuple):
    """What the last step was fed, and left.

    Attributes:
        cache: which one.
        length: its keys behind the step.
        writes: to its length, by which it is known without waiting for the GPU that nobody else wrote; None: ask.
        memory: its keys, by which rows that were moved are noticed.
    """

    cache: weakref.ref[Any]
    length: int
    writes: tuple[Tensor, int] | None
    memory: Memory


class Session:
    """What happens inside a block, which belongs to the thread that opened it."""

    def __init__(self, model: PreTrainedModel, criterion: AdaptiveCriterion, sparsity: float | str | None):
        device = model.get_input_embeddings().weight.device
        self._model, self._criterion = model, replace(criterion, probes=to_device(criterion.probes, device))
        self._built = to_device(criterion.built(sparsity), device)
        self._full, self._sizes = geometry(model.config).full_layers, Sizes.of(model.config, criterion.window)
        self._thread = threading.get_ident()
        self.stop_at(getattr(model.generation_config, "eos_token_id", None))
        self._decoding: Decode | None = None
        self._idle: KernelDecode | None = None
        self._fed: Fed | None = None
        self._length_now = 0
        self._ended: list[Shares] = []
        self._read: list[AdaptivePrefill] = []
        self._decoder = model.get_decoder()
        self._dense = self._decoder.forward
        self._captured = GraphedForward(model, self._step)

    @property
    def rows(self) -> list[Shares]:
        """Shares of each row of each boundary, in order; a row counts until it is fed a stop token."""
        return [*self._ended, *([] if self._decoding is None else self._decoding.shares())]

    @property
    def prompts(self) -> list[Shares]:
        """Shares of each row of each prompt that was decided (`scope=prompt`), in order."""
        return [shares for prompts in self._read for shares in prompts.counts.shares()]

    @property
    def sparsity(self) -> Shares:
        """Mean over rows, each of which weighs the same."""
        rows = [row for row in self.rows if row.queries]
        if not rows:
            return Shares(float("nan"), float("nan"), float("nan"), 0)
        head, group, kv_bytes, queries = (sum(values) for values in zip(*rows, strict=True))
        return Shares(head / len(rows), group / len(rows), kv_bytes / len(rows), int(queries))

    def stop_at(self, tokens: Any) -> None:
        """Count the rows of the boundaries to come until they are fed one of these tokens: an id, several or None."""
        if threading.get_ident() != self._thread:
            return  # the forward to come is refused
        self._stops = torch.as_tensor([] if tokens is None else tokens, dtype=torch.long).flatten()

    def __reduce_ex__(self, _: SupportsIndex) -> NoReturn:
        """Refuse copies and pickles, those of a model inside the block above all: they would stay patched."""
        raise UnsupportedModelError("the model is inside an `adaptive` block; copy or pickle it outside")

    def forward(self, *args: Any, **given: Any) -> Any:
        """In place of the decoder's: where one token follows a cache, the attention function is handed the decision.

        Raises:
            ConfigError: the model is in training mode.
            UnsupportedModelError: the cache or the mask is of a kind that is not served, rows of the cache were moved
                between two steps, or another thread calls.
        """
        decoding = self._before(args, given)
        if not isinstance(decoding, KernelDecode | PlainDecode):
            output = self._dense(*args, headscope=decoding, **given)
            self._after_prompts(decoding)
            return output
        if args or isinstance(decoding, PlainDecode) or torch.compiler.is_compiling():
            output = self._step(*args, headscope=decoding, **given)
        else:
            output = self._captured(headscope=decoding, **given)
        self._after(given["past_key_values"])
        return output

    def _step(self, *args: Any, headscope: Decode, **given: Any) -> Any:
        headscope.step(given.get("input_ids", args[0] if args else None))
        output = self._dense(*args, headscope=headscope, **given)
        if isinstance(headscope, KernelDecode):
            headscope.count()
        return output

    @torch.compiler.disable(reason=UNCOMPILED)  # type: ignore[untyped-decorator,no-untyped-call]
    def _before(self, args: tuple[Any, ...], given: Mapping[str, Any]) -> Decode | AdaptivePrefill | None:
        """The rows that decode, behind a boundary if they are new, or prompts; None: nothing is decided."""
        self._refuse_other_threads()
        refuse_training(self._decoder)
        ids, cache = given.get("input_ids", args[0] if args else None), given.get("past_key_values")
        tokens, length = ids if ids is not None else given["inputs_embeds"], self._length(cache)
        if tokens.shape[1] > 1 or not length:
            self.end()
            return None if length or self._criterion.chunk is None else self._prefilling(tokens, given)
        fed, self._fed = self._fed, None  # an error on the way leaves nothing to go on from
        if self._decoding is None or fed is None or fed.cache() is not cache or fed.length != length:
            self.end()
            self._decoding = self._at_boundary(cache, length, tokens, given)
        else:
            refuse_moved_rows(fed.memory, memory(cache, self._full))
        self._length_now = length
        return self._decoding

    def _refuse_other_threads(self) -> None:
        if threading.get_ident() != self._thread:
            raise UnsupportedModelError(
                "the model is inside an `adaptive` block of another thread; open the block in the thread that"
                " generates, one thread at a time, or load a model for each thread"
            )

    @torch.compiler.disable(reason=UNCOMPILED)  # type: ignore[untyped-decorator,no-untyped-call]
    def _after(self, cache: Any) -> None:
        lengths, keys = writes(cache, self._full[0]), memory(cache, self._full)
        self._fed = Fed(weakref.ref(cache), self._length_now + 1, lengths, keys)

    @torch.compiler.disable(reason=UNCOMPILED)  # type: ignore[untyped-decorator,no-untyped-call]
    def _after_prompts(self, prompts: AdaptivePrefill | None) -> None:
        self._read += [] if prompts is None else [prompts]

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
        return AdaptivePrefill(self._model, self._criterion, self._built, starts, length)

    def _at_boundary(self, cache: Any, length: int, tokens: Tensor, given: Mapping[str, Any]) -> Decode:
        rows, position_ids = len(tokens), given.get("position_ids")
        starts = first_keys(given.get("attention_mask"), rows, length)
        positions = [length] * rows if position_ids is None else position_ids.expand(rows, -1)[:, 0].tolist()
        caches, spans = pairs(cache, self._full), [(start, length) for start in starts]
        self._stops = self._stops.to(tokens.device)
        batch = Batch(self._model, self._criterion, self._built, caches, spans, positions)
        tensors = (x.detach() for pair in caches.values() for x in pair)
        if not kernels_express(self._built) or not device.serve(*tensors):
            return PlainDecode(batch, self._sizes, self._stops)
        layers = boundary_states(batch)
        if self._idle is not None and self._idle.again(layers, starts, length, self._stops):
            return self._idle
        self._release()
        return KernelDecode(layers, starts, length, self._sizes, self._stops)

    def end(self) -> None:
        """Leave what decodes; the counts stay, and its memory for rows of the same shapes."""
        if self._decoding is not None:
            self._ended += self._decoding.shares()
            self._idle = self._decoding if isinstance(self._decoding, KernelDecode) else None
            self._decoding = None

    def close(self) -> None:
        """End, and let go of memory and graph."""
        self.end()
        self._release()

    def _release(self) -> None:
        self._idle = None
        self._captured.drop()

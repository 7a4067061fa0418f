"""`headscope.adaptive`: a model generates as always, but each head reads the long context only where it must.

Forwards of several tokens (the prompt, a next turn, candidates of assisted decoding) attend densely by transformers'
own SDPA function; where they end is a boundary. Each forward of one token behind it is decided, from the first
generated token on. With `scope=prompt` a forward that follows no cache is decided too. Sliding layers are left alone.

Shapes: B rows, H query heads, K KV heads, T keys, D head_dim.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, GenerationConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from headscope.errors import ConfigError, UnsupportedModelError
from headscope.inference.adaptive_prefill import AdaptivePrefill
from headscope.inference.arguments import refuse_training, require_model
from headscope.inference.boundary import LayerState
from headscope.inference.criterion import AdaptiveCriterion, refuse_unserved
from headscope.inference.cuda_graph import forwarding
from headscope.inference.kernel_decode import KernelDecode
from headscope.inference.load import load
from headscope.inference.plain_decode import PlainDecode
from headscope.inference.session import UNCOMPILED, Session
from headscope.models.attention import layer_of
from headscope.models.identity import refuse_other
from headscope.models.observe import observe
from headscope.models.once import forget_if_changed
from headscope.models.rotary import turns

NAME = "headscope_adaptive"


@torch.compiler.disable(reason=UNCOMPILED)  # type: ignore[untyped-decorator,no-untyped-call]
def _forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    headscope: KernelDecode | PlainDecode | AdaptivePrefill | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """The registered function; the signature is transformers'. What the cache's rows hold needs no mask."""
    layer = layer_of(module)
    if headscope is None or layer not in headscope.layers:
        found: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return found
    _refuse_scale(layer, headscope, options.get("scaling"))
    return headscope.attend(layer, query, key, value).transpose(1, 2).contiguous(), None


def _refuse_scale(layer: int, deciding: KernelDecode | PlainDecode | AdaptivePrefill, scaling: float | None) -> None:
    """Refuse scores of another factor than the one that the model was observed with."""
    state = deciding.layers[layer]
    observed = state.scale if isinstance(state, LayerState) else state
    if scaling is not None and scaling != observed:
        raise UnsupportedModelError(
            f"layer {layer} scales its scores by {scaling} now, and by {observed} before; load the model again"
        )


AttentionInterface.register(NAME, _forward)
AttentionMaskInterface.register(NAME, sdpa_mask)


_OPENING = threading.Lock()


@contextmanager
def adaptive(
    model: PreTrainedModel, criterion: AdaptiveCriterion | str | Path, sparsity: float | str | None = None
) -> Iterator[Session]:
    """Inside the block the model's heads read the long context only where the criterion asks for it.

    Greedy decoding, sampling, several return sequences, batches padded on the left, dynamic and static caches and
    `torch.compile` (with a graph break at each attention call) are served. At the first generated token the rows'
    outliers and summaries are made, which takes a pass over the cache for each row; the mask is read then.

    Steps on a static cache are fastest: on a GPU they are replayed from a CUDA graph
    (`headscope.inference.cuda_graph`), the third behind a boundary first. Compiled steps are not captured; `generate`
    compiles only where it is given a `compile_config`, not by itself as it does outside. Weights must stay where they
    are inside the block.

    Args:
        model: in evaluation mode; the one that the criterion was calibrated for.
        criterion: from `headscope.calibrate` or `headscope.load`, or the path of its file.
        sparsity: a target that was calibrated; None: the only or first one.

    Yields:
        A run whose `sparsity`, and `rows` for each row, say how many pairs of generated tokens were local, and
        `prompts` how many of each prompt where the criterion decides there.

    Raises:
        ConfigError: blocks are nested, the target was not calibrated, the model is in training mode, an argument is of
            another kind, or the criterion cannot decide in prompts, as it says it does.
        AssetError: the criterion belongs to another model, or its file is missing or damaged.
        UnsupportedModelError: beams or other rows that move in the cache, another thread, a mask that is no left
            padding, or another kind of cache; with `scope=prompt` a row of several texts.
    """
    require_model(model)
    criterion = _checked(criterion, model)
    refuse_unserved(criterion.name, criterion.recipe, criterion.chunk)
    with ExitStack() as block:
        with _OPENING:  # of two threads the second one is refused
            refuse_nested(model)
            refuse_training(model.get_decoder())
            _ask(model, turning=criterion.probes is not None)
            run = Session(model, criterion, sparsity)
            block.callback(run.close)
            block.enter_context(forwarding(model, run.forward))  # first in, last out: by it a block is known
        block.enter_context(_deciding(model, run))
        yield run


def _checked(criterion: AdaptiveCriterion | str | Path, model: PreTrainedModel) -> AdaptiveCriterion:
    """Return the criterion, from its file if a path is given, and refuse that of another model."""
    if isinstance(criterion, str | Path):
        return load(criterion, model)
    if not isinstance(criterion, AdaptiveCriterion):
        kind = type(criterion).__name__
        raise ConfigError(f"criterion is of type {kind}; give what headscope.calibrate or load returned, or its path")
    refuse_other(criterion.model, model)
    return criterion


@contextmanager
def _deciding(model: PreTrainedModel, run: Session) -> Iterator[None]:
    """Inside the block the model attends by our function, and each `generate` tells the run its stop tokens."""
    before, prepare = model.config._attn_implementation, model._prepare_special_tokens

    def prepare_and_tell(config: GenerationConfig, *args: Any, **options: Any) -> None:
        prepare(config, *args, **options)
        run.stop_at(config.eos_token_id)

    try:
        model.set_attn_implementation(NAME)
        model._prepare_special_tokens = prepare_and_tell
        yield
    finally:
        vars(model).pop("_prepare_special_tokens", None)
        model.set_attn_implementation(before)


def _ask(model: PreTrainedModel, turning: bool) -> None:
    """Ask the model, before anything takes its forward's place, for its scales and how it turns queries."""
    forget_if_changed(model)
    observe(model)
    if turning:
        turns(model)


def refuse_nested(model: PreTrainedModel) -> None:
    """Refuse a model that is inside a block, of this thread or another one.

    Raises:
        ConfigError: it is.
    """
    if isinstance(getattr(model.get_decoder().forward, "__self__", None), Session):
        raise ConfigError(
            "the model is inside an `adaptive` block already; leave it: blocks do not nest nor share a model"
        )

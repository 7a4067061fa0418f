"""`headscope.calibrate`: fits a criterion to a model on some prompts, as the workflow's stages do, in memory.

Dense greedy answers, probes from them, then one dense pass a prompt in which the criterion is asked for its margins.

Shapes: N rows (layer, query) of one prompt, H query heads, Q queries.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from headscope.errors import ConfigError
from headscope.heads.boundary_state import SUMMARIES
from headscope.heads.calibration.maps import MarginMap, energy_map
from headscope.heads.calibration.thresholds import no_pairs, threshold_for
from headscope.heads.decision import GROUP, UNITS, group_margins
from headscope.heads.window import Window
from headscope.inference.arguments import (
    checked_window,
    choice,
    refuse_training,
    require_model,
    targets,
    whole,
    yes_or_no,
)
from headscope.inference.calibration_prompt import CalibrationPrompt, Prompt, answer_prompt, read_prompts
from headscope.inference.check_model import refuse_unverified
from headscope.inference.context import refuse_nested
from headscope.inference.criterion import (
    LOST_OUTPUT,
    PROMPT,
    QUESTION,
    RECIPES,
    SCOPES,
    AdaptiveCriterion,
    Recipe,
    refuse_unserved,
)
from headscope.lab.margins import margins as record_margins
from headscope.lab.probes import ModelProbes, fit_probes
from headscope.lab.rows import Rows
from headscope.models.generation import stop_tokens
from headscope.models.geometry import geometry, refuse_unsupported
from headscope.models.identity import identity

Array = NDArray[Any]
CHUNK = 256


def calibrate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Iterable[Prompt],
    *,
    criterion: str = LOST_OUTPUT,
    sparsity: float | str | Iterable[float | str] = 0.8,
    window: Window | None = None,
    outliers: int | None = None,
    unit: str | None = None,
    summaries: str | None = None,
    probes: int = 64,
    max_new_tokens: int = 64,
    add_special_tokens: bool = False,
    scope: str = QUESTION,
    chunk: int | None = None,
) -> AdaptiveCriterion:
    """Fit a criterion to a model: probes, each head's weight and a threshold for each target.

    A handful of prompts like those to come, of about their length, is enough; a threshold holds at the length it was
    fitted at. Every prompt costs a greedy answer and two dense passes.

    Args:
        model: in evaluation mode, on its device; of a kind that `headscope.adaptive` serves.
        tokenizer: its fast tokenizer.
        prompts: a list, generator, array or column of texts as the model is given them, chat template included, of
            chats (lists of messages), which the tokenizer's chat template writes, or of pairs. The queries of the
            generated tokens are what is fitted; of (context, question) those of the question too, as if decisions began
            with it.
        criterion: one of conf/criterion, such as `lost_output` or `qada`; an unknown name lists them.
        sparsity: a target or several: shares of local (query, head) pairs on these prompts, in (0, 1).
        window: first and last keys that every head reads; None: 16 and 128.
        outliers: keys of a KV head that belong to the window too, in the mean; None: the criterion's own number.
        unit: "head" decides each query head, "group" all heads of a KV head together; None: the criterion's own.
        summaries: "frozen" or "streaming": whether the bulk's summaries stay as the prompt left them, or take in the
            keys that leave the window; None: the criterion's own.
        probes: queries a head that stand for those to come, of all prompts together.
        max_new_tokens: of an answer, 2 at least.
        add_special_tokens: whether the tokenizer adds those to texts and pairs (a chat template has them already).
        scope: `question` reads prompts densely; `prompt` (`qada` alone) decides in them too, and fits a sample of all
            queries: those of a chunk meet what its start found outside the window, those behind the prompt, or of a
            (context, question) behind the context, what its end found.
        chunk: tokens of a chunk, with `scope="prompt"` alone; None: 256.

    Raises:
        ConfigError: an argument is out of range or of another kind, no prompt is longer than the window, or the model
            is in training mode.
        LengthError: a prompt leaves no context, or no room for its answer.
        UnsupportedModelError: the model's attention is not implemented.
    """
    _refuse(model, tokenizer)
    recipe, chunks = _recipe(criterion, outliers, unit, summaries), _chunks(scope, chunk)
    refuse_unserved(criterion, recipe, chunks)
    shares, ends = targets(sparsity), checked_window(window)
    new, probes = whole("max_new_tokens", max_new_tokens, 2), whole("probes", probes, 1)
    options = new, stop_tokens(model, tokenizer), yes_or_no("add_special_tokens", add_special_tokens)
    texts = read_prompts(prompts, tokenizer)
    refuse_unverified(model, _asks_probes(recipe))
    answered = [answer_prompt(model, tokenizer, text, *options) for text in texts]
    return _fitted(model, answered, criterion, recipe, ends, shares, probes, chunks)


def _fitted(
    model: PreTrainedModel,
    answered: Sequence[CalibrationPrompt],
    name: str,
    recipe: Recipe,
    window: Window,
    targets: Sequence[float],
    probes: int,
    chunk: int | None,
) -> AdaptiveCriterion:
    """Fit probes, the heads' weights and a threshold for each target on prompts with their dense answers."""
    model_probes = None
    if _asks_probes(recipe):
        texts = [(one.prompt + one.answer, one.boundary) for one in answered]
        model_probes = fit_probes(model, texts, probes)
    recorded = [_margins(model, one, recipe, window, model_probes, chunk) for one in answered]
    recorded = [rows for rows in recorded if len(rows.layer)]
    if not recorded:
        raise no_pairs()
    margin_map = _map(recipe, recorded)
    margins = [margin_map.apply_rows(rows.layer, rows.margin) for rows in recorded]
    if recipe.unit == GROUP:
        kv_heads = geometry(model.config).kv_heads
        margins = [group_margins(torch.from_numpy(m), kv_heads, recipe.measures, 1).numpy() for m in margins]
    thresholds = {target: threshold_for(margins, target) for target in targets}
    lengths = tuple(len(one.prompt) for one in answered)
    return AdaptiveCriterion(
        name, recipe, window, thresholds, margin_map, model_probes, lengths, identity(model), chunk
    )


def _asks_probes(recipe: Recipe) -> bool:
    """Return True if outliers are chosen, or heads weighed, by queries of these prompts."""
    return bool(recipe.outliers.count) or recipe.kind == LOST_OUTPUT


def _recipe(name: str, outliers: int | None, unit: str | None, summaries: str | None) -> Recipe:
    recipe = RECIPES[choice("criterion", name, RECIPES)]
    if unit is not None:
        recipe = replace(recipe, unit=choice("unit", unit, UNITS))
    if summaries is not None:
        recipe = replace(recipe, summaries=choice("summaries", summaries, SUMMARIES))
    if outliers is None:
        return recipe
    count = whole("outliers", outliers, 0)
    if not recipe.outliers.rule:
        raise ConfigError(f"outliers={count}: {name} takes none; leave it out")
    return replace(recipe, outliers=replace(recipe.outliers, count=count))


def _chunks(scope: str, chunk: int | None) -> int | None:
    """Tokens of a chunk where the scope has any."""
    if choice("scope", scope, SCOPES) == PROMPT:
        return whole("chunk", CHUNK if chunk is None else chunk, 1)
    if chunk is not None:
        raise ConfigError(
            f"chunk={chunk!r:.80} has no meaning for scope={scope!r}; leave it out, or give scope='prompt'"
        )
    return None


def _refuse(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a model or a tokenizer that is not served."""
    require_model(model)
    refuse_nested(model)
    refuse_unsupported(model.config)
    refuse_training(model.get_decoder())
    if not getattr(tokenizer, "is_fast", False):
        kind = type(tokenizer).__name__
        raise ConfigError(f"tokenizer is of type {kind}, which gives no character offsets; use a fast tokenizer")


class _Rows(NamedTuple):
    """Rows of one prompt that have a bulk, one layer's after the other's.

    Attributes:
        layer: [N].
        margin: as the criterion computes it, float32 [N, H].
        lost: exact log norm of the lost output, float32 [N, H].
    """

    layer: Array
    margin: Array
    lost: Array


def _margins(
    model: PreTrainedModel,
    one: CalibrationPrompt,
    recipe: Recipe,
    window: Window,
    fitted: ModelProbes | None,
    chunk: int | None,
) -> _Rows:
    """Record the criterion's margins on a prompt."""
    rows = Rows(recipe.criterion([{"threshold": 0.0}]), recipe.outliers)
    answer = len(one.prompt)
    [layers] = record_margins(model, [*one.prompt, *one.fed], one.boundary, [rows], window, fitted, answer, chunk)
    has_bulk = ~torch.stack([layer.margin.isposinf().all(0) for layer in layers.values()]).all(0)
    margin, lost = (
        torch.cat([getattr(layer, name)[:, has_bulk].T.float().cpu() for layer in layers.values()]).numpy()
        for name in ("margin", "lost")
    )
    return _Rows(np.repeat([*layers], int(has_bulk.sum())), margin, lost)


def _map(recipe: Recipe, recorded: Sequence[_Rows]) -> MarginMap:
    """Weigh each head by what it loses where the criterion predicts losses; shares need no map."""
    if recipe.kind != LOST_OUTPUT:
        return MarginMap({})
    layers, margin, lost = zip(*recorded, strict=True)
    return energy_map(margin, [-of_prompt for of_prompt in lost], layers)

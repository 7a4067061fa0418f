"""One dense prefill a prompt, many criteria: the rows of all prompts decode together over the prompts' prefixes.

The keys and values of a prefix are held once and read once for all of its rows; each row owns the keys of the question
and of its answer, which differ because its criterion changed the hidden states before them. Where the criteria decide
in the context too (`scope=prompt`), each row has a prefix of its own.

Shapes: R rows, L full-attention layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor
from transformers import PreTrainedModel

from headscope.errors import ShapeError
from headscope.heads.window import Window
from headscope.lab.as_one import AsOne, may_join
from headscope.lab.counts import ReadingCounts, Sizes, StepLabels
from headscope.lab.own_cache import own_cache
from headscope.lab.prefill import forward, prefill_densely
from headscope.lab.probes import ModelProbes
from headscope.lab.prompt_scope import prefill_each_row
from headscope.lab.replayed_steps import decode_replayed, replayable
from headscope.lab.row_answer import RowAnswer
from headscope.lab.rows import Rows
from headscope.lab.shared_prefix import SharedPrefix
from headscope.lab.together import Together
from headscope.models.attention import UNPADDED, attention


@dataclass(frozen=True)
class Answer:
    """What one row produced.

    Attributes:
        tokens: generated token ids, without the stop token.
        stop: "eos" or "length".
        sparsity: share of (query, head) pairs labelled local, queries with a bulk only; NaN without any.
        sparsity_group: the same by KV group, local only if all of its query heads are.
        kv_bytes: bytes of the cache and its summaries that were read, as a share of reading every key and value.
        sparsity_layer: `sparsity` of each full-attention layer, in their order, [L].
        queries: queries counted.
    """

    tokens: list[int]
    stop: str
    sparsity: float
    sparsity_group: float
    kv_bytes: float
    sparsity_layer: list[float]
    queries: int


def answer_rows(
    model: PreTrainedModel,
    ids: Sequence[int],
    boundary: int,
    criteria: Sequence[Rows],
    window: Window,
    max_new_tokens: int,
    eos: Sequence[int],
    min_new_tokens: int = 0,
    probes: ModelProbes | None = None,
    chunk: int | None = None,
) -> list[Answer]:
    """Decode one prompt greedily under every criterion, rows in the given order; arguments as for `answer_prompts`."""
    limits = max_new_tokens, eos, min_new_tokens
    (answers,) = answer_prompts(model, [(ids, boundary)], criteria, window, *limits, probes, chunk)
    return answers


@torch.inference_mode()
def answer_prompts(
    model: PreTrainedModel,
    prompts: Sequence[tuple[Sequence[int], int]],
    criteria: Sequence[Rows],
    window: Window,
    max_new_tokens: int,
    eos: Sequence[int],
    min_new_tokens: int = 0,
    probes: ModelProbes | None = None,
    chunk: int | None = None,
) -> list[list[Answer]]:
    """Decode prompts greedily under every criterion: each prompt's rows in the given order.

    Args:
        model: in evaluation mode.
        prompts: tokens of each, and its boundary: the first token of the question, which goes through as one chunk
            under each row's criterion.
        criteria: the rows of each.
        window: the local window.
        max_new_tokens: a row stops there.
        eos: stop tokens; a row that produced one leaves the batch.
        min_new_tokens: so many first tokens are never stop tokens.
        probes: of the model, where rules for outliers ask for them.
        chunk: tokens of a chunk of the context, which each row then prefills under its own criterion (`scope=prompt`),
            one row at a time; None prefills it densely, once for all (`scope=question`), and decodes all prompts
            together.

    Raises:
        ShapeError: no token before or after a boundary.
    """
    for ids, boundary in prompts:
        if not 0 < boundary < len(ids):
            raise ShapeError(f"boundary {boundary} leaves no context or no question in a prompt of {len(ids)} tokens")
    order, limits = _side_by_side(criteria), (max_new_tokens, set(eos), min_new_tokens)
    groups = [criteria[i].on(model.get_input_embeddings().weight.device) for i in order]
    contexts, questions = [ids[:boundary] for ids, boundary in prompts], [ids[boundary:] for ids, boundary in prompts]
    with attention(model, UNPADDED):
        if chunk is None:
            sizes, rows = Sizes.of(model.config, window), sum(group.count for group in groups)
            prefixes = [
                SharedPrefix(prefill_densely(model, context, probes), groups, window, ReadingCounts(rows, sizes))
                for context in contexts
            ]
            answers = _decode_rows(model, questions, prefixes, *limits)
        else:
            answers = [
                [
                    answer
                    for row in prefill_each_row(model, context, groups, window, chunk, probes)
                    for answer in _decode_rows(model, [question], [row], *limits)[0]
                ]
                for context, question in zip(contexts, questions, strict=True)
            ]
    return [_in_order(of_prompt, criteria, order) for of_prompt in answers]


def _side_by_side(criteria: Sequence[Rows]) -> list[int]:
    """An order in which rows with the same outliers are adjacent: one product then serves all of their windows."""
    outliers = [group.outliers for group in criteria]
    return sorted(range(len(criteria)), key=lambda i: outliers.index(outliers[i]))


def _in_order(answers: Sequence[Answer], criteria: Sequence[Rows], order: Sequence[int]) -> list[Answer]:
    """Bring answers, whose criteria stand in `order`, back to the order of the criteria."""
    each = iter(answers)
    by_criterion = {i: list(islice(each, criteria[i].count)) for i in order}
    return [answer for i in range(len(criteria)) for answer in by_criterion[i]]


def _decode_rows(
    model: PreTrainedModel,
    questions: Sequence[Sequence[int]],
    prefixes: Sequence[SharedPrefix],
    max_new_tokens: int,
    eos: set[int],
    min_new_tokens: int,
) -> list[list[Answer]]:
    """Read each prompt's question, then decode the rows of all prompts together."""
    counts = [prefix.counts for prefix in prefixes]
    first_tokens, caches = [], [own_cache() for _ in prefixes]
    for question, prefix, cache in zip(questions, prefixes, caches, strict=True):
        step, banned = torch.tensor([question]).expand(prefix.rows, -1), sorted(eos) if min_new_tokens else []
        first_tokens.append(forward(model, step, prefix.length, cache, prefix, banned))
    limits = max_new_tokens, eos, min_new_tokens
    if replayable(model, prefixes):
        at_once, decoded = len(prefixes) if may_join(prefixes[0].groups) else 1, []
        for some in (slice(first, first + at_once) for first in range(0, len(prefixes), at_once)):
            decoded += decode_replayed(model, AsOne(prefixes[some], caches[some]), first_tokens[some], *limits)
    else:
        decoded = _decode(model, Together(prefixes, caches), first_tokens, *limits)
    return [_answers(of_prompt, count) for of_prompt, count in zip(decoded, counts, strict=True)]


def _answers(rows: Sequence[RowAnswer], counts: ReadingCounts | StepLabels | None) -> list[Answer]:
    """Put together what each row of a prompt produced and read."""
    assert isinstance(counts, ReadingCounts)
    return [
        Answer(row.tokens, row.stop or "length", shares.head, shares.group, shares.kv_bytes, by_layer, shares.queries)
        for row, shares, by_layer in zip(rows, counts.shares(), counts.layer_shares(), strict=True)
    ]


def _decode(
    model: PreTrainedModel,
    together: Together,
    first_tokens: Sequence[Tensor],
    max_new_tokens: int,
    eos: set[int],
    min_new_tokens: int,
) -> list[list[RowAnswer]]:
    """Decode behind each row's first token, [R] of each prompt; return the answers of each prompt's rows."""
    answers = [[RowAnswer() for _ in tokens] for tokens in first_tokens]
    active, following = [row for of_prompt in answers for row in of_prompt], torch.cat(list(first_tokens))
    for new in range(1, max_new_tokens + 1):
        for row, token in zip(active, following.tolist(), strict=True):
            row.extend([token], max_new_tokens, eos)
        going = [place for place, row in enumerate(active) if not row.stop]
        if not going:
            break
        if len(going) < len(active):
            active, following = [active[place] for place in going], following[going]
            together.keep(torch.tensor(going))
        banned = sorted(eos) if new < min_new_tokens else []
        following = forward(model, following[:, None], together.positions(), together.cache, together, banned)
        together.advance()
    return answers

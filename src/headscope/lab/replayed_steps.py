"""Decoding steps as CUDA graphs: launching a step's kernels one by one takes far longer than a GPU takes to run them.

All that a step reads and writes stays where it is: its number, positions and tokens lie in tensors, own keys have room
for the longest answer, and what a query sees follows from its position. Rows that have stopped stay in the batch,
uncounted, until all have: a step has as many kernels for few rows as for many.
Summaries that stream are made anew in each step, so rows with such summaries decode
by the steps of `headscope.lab.evaluation`.

Shapes: N prompts, R rows of each, K KV heads, S room for own keys, D head_dim, A steps at a time.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from headscope.heads.boundary_state import STREAMING
from headscope.kernels.common.graph import GRAPHS, Repeated
from headscope.lab.as_one import AsOne
from headscope.lab.counts import StepLabels
from headscope.lab.row_answer import RowAnswer
from headscope.lab.shared_prefix import SharedPrefix
from headscope.models.attention import LayerCall

AT_ONCE = 8
"""Steps between two looks at the tokens, for which Python waits; a row that stops in between does the rest in vain."""


def replayable(model: PreTrainedModel, prompts: Sequence[SharedPrefix]) -> bool:
    """Return True if one device with graphs holds the model, and no summaries stream."""
    device = model.get_input_embeddings().weight.device
    if device.type not in GRAPHS or any(weight.device != device for weight in model.parameters()):
        return False
    criteria = [group.criterion for prompt in prompts for group in prompt.groups]
    return not any(each.summaries == STREAMING and each.estimator is not None for each in criteria)


def decode_replayed(
    model: PreTrainedModel,
    as_one: AsOne,
    first_tokens: Sequence[Tensor],
    max_new_tokens: int,
    eos: set[int],
    min_new_tokens: int,
) -> list[list[RowAnswer]]:
    """Decode behind each row's first token, [R] of each prompt; return the answers of each prompt's rows."""
    following = torch.stack(list(first_tokens), 1).flatten()
    steps, rows = _Steps(model, as_one, following, max_new_tokens), [RowAnswer() for _ in following]
    new, done = following[None], 0
    while done < max_new_tokens:
        for row, tokens in zip(rows, new.T.tolist(), strict=True):
            row.extend(tokens, max_new_tokens, eos)
        done += len(new)
        if all(row.stop for row in rows):
            break
        new = steps.without(sorted(eos)) if done < min_new_tokens else steps.run(min(AT_ONCE, max_new_tokens - done))
    steps.finish([len(row.tokens) for row in rows])
    return [rows[number :: as_one.prompt_count] for number in range(as_one.prompt_count)]


class _Steps:
    """Steps of the same rows, one token of each in a step; handed to the model as forward keyword."""

    def __init__(self, model: PreTrainedModel, as_one: AsOne, tokens: Tensor, max_new_tokens: int):
        """Make room for the steps.

        Args:
            model: in evaluation mode.
            as_one: the rows of all prompts.
            tokens: each row's first, [R N].
            max_new_tokens: the most there will be.
        """
        device, most, keys = model.get_input_embeddings().weight.device, max_new_tokens, as_one.cache.get_seq_length()
        self._model, self._as_one, self._repeated, self._most = model, as_one, Repeated(device), most
        self._tokens, self._positions = (x.to(device, copy=True) for x in (tokens, as_one.positions()))
        self._step, self._place = (torch.tensor([first], device=device) for first in (0, keys))
        self._answers = self._tokens.new_zeros(most, len(tokens))
        self._run = 0
        self._own = [layer.reserve(most) for layer in as_one.cache.layers]
        self._labels = as_one.counts = StepLabels(self._step, most)

    def run(self, steps: int) -> Tensor:
        """Do some steps; return their tokens, [A, R N]."""
        for _ in range(steps):
            self._repeated(self._do)
        return self._done(steps)

    def without(self, banned: Sequence[int]) -> Tensor:
        """Do a step that gives none of the banned tokens; return its tokens, [1, R N]."""
        self._do(banned)
        return self._done(1)

    def finish(self, lengths: Sequence[int]) -> None:
        """Count the labels of each row up to its stop, by the tokens that it has, [R N]."""
        fed = torch.tensor(lengths, device=self._tokens.device)
        self._labels.hand_over(self._as_one.readings, self._run, fed)

    def attend(self, call: LayerCall) -> Tensor:
        """Compute attention of every row, [R N, H, 1, D], to its own keys, the new one included, and its prefix."""
        own = self._own[call.layer]
        for room, new in zip(own, (call.key, call.value), strict=True):
            room.index_copy_(2, self._place, new)
        return self._as_one.attend(replace(call, key=own[0], value=own[1]))

    def _done(self, steps: int) -> Tensor:
        self._run += steps
        return self._answers[self._run - steps : self._run]

    def _do(self, banned: Sequence[int] = ()) -> Tensor:
        """Feed each row its last token; leave the next, [R N], in its place."""
        self._as_one.look(self._positions, self._most)
        output = self._model(
            self._tokens[:, None],
            position_ids=self._positions[:, None],
            use_cache=False,
            logits_to_keep=1,
            headscope=self,
        )
        # As generate() does: float32 before the argmax, so that half-precision ties break alike.
        logits = output.logits[:, -1].float()
        if banned:
            logits[:, list(banned)] = float("-inf")
        self._tokens.copy_(logits.argmax(-1))
        self._answers.index_copy_(0, self._step, self._tokens[None])
        for counter in (self._step, self._place, self._positions):
            counter += 1
        return self._tokens

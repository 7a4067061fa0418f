"""Decoding steps as CUDA graphs: launching a step's kernels one by one takes far longer than a GPU takes to run them.

All that a step reads and writes stays where it is: its number, positions and tokens lie in tensors, own keys have room
for the longest answer, and what a query sees follows from its position. Rows that have stopped stay in the batch,
uncounted, until those of half of the prompts have: a step has as many kernels for few rows of a prompt as for many.
Summaries that stream are made anew in each step, so rows with such summaries decode
by the steps of `headscope.lab.evaluation`.

Shapes: R rows, K KV heads, S room for own keys, D head_dim, N steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from headscope.heads.boundary_state import STREAMING
from headscope.heads.window import Window
from headscope.kernels.common.graph import GRAPHS, Repeated
from headscope.lab.counts import ReadingCounts, StepLabels
from headscope.lab.shared_prefix import Seen, SharedPrefix
from headscope.lab.together import Together
from headscope.lab.visible import Visible
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


@dataclass
class _RowAnswer:
    """Tokens of a row, without the stop token, and why it stopped; None while it goes on."""

    tokens: list[int] = field(default_factory=list)
    stop: str | None = None

    def extend(self, tokens: Sequence[int], most: int, eos: set[int]) -> None:
        """Take the tokens up to the row's stop."""
        for token in tokens:
            if self.stop is None and token in eos:
                self.stop = "eos"
            elif self.stop is None:
                self.tokens.append(token)
                self.stop = "length" if len(self.tokens) == most else None


def decode_replayed(
    model: PreTrainedModel, together: Together, following: Tensor, max_new_tokens: int, eos: set[int], min_new: int
) -> tuple[list[list[int]], list[str]]:
    """Decode behind each row's first token, [R]; return the tokens of all rows and why each stopped."""
    device = model.get_input_embeddings().weight.device
    rows, repeated, new = [_RowAnswer() for _ in following], Repeated(device), following[None].to(device)
    active, steps, done = rows, None, 0
    while True:
        for row, tokens in zip(active, new.T.tolist(), strict=True):
            row.extend(tokens, max_new_tokens, eos)
        done += len(new)
        going = [place for place, row in enumerate(active) if row.stop is None]
        fewer = 2 * together.prompts_of(going) <= len(together.prompts)
        if steps is not None and fewer:
            steps.finish([len(row.tokens) for row in active])
            steps = None
        if not going:
            return [row.tokens for row in rows], [row.stop or "length" for row in rows]
        if steps is None:
            if fewer:
                together.keep(torch.tensor(going))
                active, new = [active[place] for place in going], new[:, going]
            steps = _Steps(model, together, repeated, new[-1], done, max_new_tokens)
        new = steps.without(sorted(eos)) if done < min_new else steps.run(min(AT_ONCE, max_new_tokens - done))


class _Steps:
    """Steps of the same rows, one token of each in a step; handed to the model as forward keyword."""

    def __init__(
        self,
        model: PreTrainedModel,
        together: Together,
        repeated: Repeated,
        tokens: Tensor,
        done: int,
        max_new_tokens: int,
    ):
        """Make room for the steps left.

        Args:
            model: in evaluation mode.
            together: the rows.
            repeated: records and replays a step.
            tokens: the last token of each row, [R], on the model's device.
            done: tokens of each row's answer so far.
            max_new_tokens: the most there will be.
        """
        self._model, self._together, self._repeated, self._before = model, together, repeated, done - 1
        repeated.restart()
        device, most, keys = tokens.device, max_new_tokens - done, together.cache.get_seq_length()
        self._tokens, self._positions = tokens.clone(), together.positions().to(device)
        self._step, self._place = (torch.tensor([first], device=device) for first in (0, keys))
        self._answers = tokens.new_zeros(most, len(tokens))
        self._run = 0
        self._own = [layer.reserve(most) for layer in together.cache.layers]
        self._ends = [(first, first + most - 1) for first in together.next]
        self._labels = []
        for prompt in together.prompts:
            assert isinstance(prompt.counts, ReadingCounts)
            prompt.counts = StepLabels(prompt.counts, self._step, most)
            self._labels.append(prompt.counts)

    def run(self, steps: int) -> Tensor:
        """Do some steps; return their tokens, [N, R]."""
        for _ in range(steps):
            self._repeated(self._do)
        return self._done(steps)

    def without(self, banned: Sequence[int]) -> Tensor:
        """Do a step that gives none of the banned tokens; return its tokens, [1, R]."""
        self._do(banned)
        return self._done(1)

    def finish(self, lengths: Sequence[int]) -> None:
        """Count the labels of each row up to its stop, by the tokens that it has, [R]; go on behind them."""
        fed = torch.tensor(lengths, device=self._tokens.device) - self._before
        each = torch.split(fed, [prompt.rows for prompt in self._together.prompts])
        for prompt, labels, of_prompt in zip(self._together.prompts, self._labels, each, strict=True):
            labels.hand_over(self._run, of_prompt)
            prompt.counts = labels.counts
        for layer in self._together.cache.layers:
            layer.extend(self._run)
        self._together.advance(self._run)

    def attend(self, call: LayerCall) -> Tensor:
        """Compute attention of every row, [R, H, 1, D], to its own keys, the new one included, and its prefix."""
        own = self._own[call.layer]
        for room, new in zip(own, (call.key, call.value), strict=True):
            room.index_copy_(2, self._place, new)
        return self._together.attend(replace(call, key=own[0], value=own[1]), self._seen)

    def _done(self, steps: int) -> Tensor:
        self._run += steps
        return self._answers[self._run - steps : self._run]

    def _do(self, banned: Sequence[int] = ()) -> Tensor:
        """Feed each row its last token; leave the next, [R], in its place."""
        self._seen = self._visible()
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

    def _visible(self) -> list[Seen]:
        """Tell what the queries of each prompt see in this step, once for all layers of a kind."""
        prompts, seen = self._together.prompts, list[Seen]()
        by_prompt = torch.split(self._positions, [prompt.rows for prompt in prompts])
        for prompt, ends, position in zip(prompts, self._ends, by_prompt, strict=True):
            seen.append(cache(partial(_seen, prompt.length, position[:1], ends)))
        return seen


def _seen(prefix: int, position: Tensor, ends: tuple[int, int], window: Window, dtype: torch.dtype) -> Visible:
    """Tell what a query at a position, [1], between two ends sees in layers with a window."""
    return Visible(window, prefix, position, ends, dtype)

"""Samples of a generated task at a measured length: a sample's draws start afresh at every size that is tried."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from random import Random
from typing import Any

from headscope.benchmarks.chat import Prompt, assemble
from headscope.benchmarks.encoding import count_tokens
from headscope.benchmarks.row import Request, Row
from headscope.benchmarks.sizes import fitting_size
from headscope.benchmarks.task import SPLITS, Rendering, Split, Task
from headscope.errors import LengthError

# Shares of the target length: what every sample has at least; where its search stops; what the common size aims at.
LEAST_FILL, GOOD_FILL, COMMON_FILL = 0.9, 0.95, 0.98

# Below this length one unit of context, a whole document, may be more than a tenth of a prompt: then the fullest sample
# that fits is taken.
LONG = 4096


@dataclass(frozen=True)
class Sample:
    """One finished prompt.

    Attributes:
        prompt: the full string and its offsets.
        rendering: its parts and references.
        choices: the task's own dataclass of draws.
        length: tokens of the full string and of the longest answer allowed.
    """

    prompt: Prompt
    rendering: Rendering
    choices: Any
    length: int

    @classmethod
    def of(cls, rendering: Rendering, choices: Any, task: Task[Any, Any], request: Request) -> "Sample":
        """Put a text into the model's chat template and measure it."""
        prompt = assemble(rendering, request.tokenizer, request.chat_template)
        return cls(prompt, rendering, choices, count_tokens(request.tokenizer, prompt.text) + task.max_new_tokens)

    def row(self, index: int, split: Split, task: Task[Any, Any], source: Mapping[str, Any]) -> Row:
        """Return the sample as the prompts stage stores it."""
        return Row(
            index=index,
            split=split,
            prompt=self.prompt,
            answer_prefix=self.rendering.answer_prefix,
            references=self.rendering.references,
            metric=task.metric,
            max_new_tokens=task.max_new_tokens,
            length=self.length,
            source=source,
        )


def generated_rows(task: Task[Any, Any], request: Request) -> list[Row]:
    """Generate the rows of one task, evaluation first.

    Raises:
        AssetError: a file of the task is damaged, or has too few questions.
        LengthError: the length is below the task's minimum, or what the task is made of cannot fill it.
    """
    sampler = Sampler(task, request)
    return [row for split in SPLITS for row in sampler.rows(split, request.samples[split])]


@dataclass(frozen=True)
class Sampler:
    """Makes a task's samples.

    Attributes:
        unfitted: the task.
        request: task's name, length, seed, tokenizer, chat template and files.
    """

    unfitted: Task[Any, Any]
    request: Request

    @cached_property
    def task(self) -> Task[Any, Any]:
        """The task with its constants for this tokenizer; the chat template and the answer take part of the budget."""
        template = Sample.of(Rendering("", "", "", []), None, self.unfitted, self.request)
        length, tokenizer = self.request.length, self.request.tokenizer
        return self.unfitted.fit(length, length - template.length, lambda text: count_tokens(tokenizer, text))

    @cached_property
    def data(self) -> Mapping[Split, Any]:
        """What the task reads from its files, by split."""
        files = [_contents(self.request.files[name]) for name in self.unfitted.needs(self.request.length)]
        return {split: self.unfitted.read(files, split) for split in SPLITS}

    def samples(self, split: Split, count: int) -> list[Sample]:
        """Return `count` samples of `split`, each within 90 to 100 % of the length (short prompts: as full as it gets).

        Raises:
            LengthError: the length is below the minimum of these samples, or what the task is made of cannot fill it.
        """
        if not count:
            return []
        minimum = self.minimum_length(split, count)
        if minimum > self.request.length:
            # What the user is told to choose must serve both splits.
            needs = max([minimum, *(self.minimum_length(*wanted) for wanted in self.request.samples.items())])
            raise LengthError(
                f"its shortest prompt has {needs} tokens with this tokenizer, answer included; choose a length of at "
                f"least {needs}",
                needs,
            )
        common, _ = self._search(split, 0, COMMON_FILL, COMMON_FILL, self.task.minimum_size)
        return [self._sample(split, index, common) for index in range(count)]

    def rows(self, split: Split, count: int) -> list[Row]:
        """Return `count` samples of `split` as the prompts stage stores them."""
        samples = enumerate(self.samples(split, count))
        return [sample.row(index, split, self.task, asdict(sample.choices)) for index, sample in samples]

    def minimum_length(self, split: Split, count: int) -> int:
        """Return the length in tokens of the longest of the first `count` samples at the task's smallest size."""
        smallest = self.task.minimum_size
        # The last sample first: a file with too few questions for it says so at once.
        return max((self.at_size(split, index, smallest).length for index in reversed(range(count))), default=0)

    def at_size(self, split: Split, index: int, size: int) -> Sample:
        """Return a sample at a given size; its draws depend on seed, split, task and index, not on other samples."""
        rng, data = Random(f"{self.request.seed}/{split}/{self.request.task}/{index}"), self.data[split]
        choices = self.task.draw(rng, size, split, data, index)
        return Sample.of(self.task.render(choices, data), choices, self.task, self.request)

    def _sample(self, split: Split, index: int, common: int) -> Sample:
        """Return a sample at the first good size, from the common one on: most need no search of their own."""
        _, sample = self._search(split, index, GOOD_FILL, 1, common)
        length = self.request.length
        least = LEAST_FILL * length if length >= LONG else 0
        if not least <= sample.length <= length:
            raise LengthError(
                f"sample {index} of {split} has {sample.length} tokens, not 90-100 % of it; one unit of its context is "
                "too long for so short a prompt, choose a longer one"
            )
        return sample

    def _search(self, split: Split, index: int, least: float, most: float, start: int) -> tuple[int, Sample]:
        """Return the first good size, from `start` on, and its sample; `least` and `most` are shares of the length."""
        samples: dict[int, Sample] = {}

        def tokens(size: int) -> int:
            samples[size] = self.at_size(split, index, size)
            return samples[size].length

        length = self.request.length
        size = fitting_size(tokens, self.task.minimum_size, least * length, most * length, start)
        return size, samples[size]


@cache
def _contents(path: Path) -> bytes:
    """Read a benchmark file once for both splits."""
    return path.read_bytes()

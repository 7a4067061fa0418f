"""What a job costs: seconds of work, from its slice and its parents' slices alone.

A forward pass takes the time of its arithmetic, of reading the weights, and of starting each layer's operations, on a
reference machine; the table says how many seconds a stage takes for each second of that.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib import import_module

from headscope.benchmarks.registry import module_of
from headscope.pipeline.plan.node import Node, Spec


@dataclass(frozen=True)
class Machine:
    """The reference machine of a device: operations a second, bytes a second, and seconds to start a layer."""

    flops: float
    bandwidth: float
    start: float


MACHINES = {"cpu": Machine(60e9, 12e9, 2e-4), "cuda": Machine(300e12, 3e12, 6e-4)}
"""One core of a server's processor (Intel Xeon, AVX-512); one NVIDIA H200."""

# Stage: seconds of a job with next to nothing to do, in a process that runs already, and seconds for each ideal second.
# Two cores of an Intel Xeon: `smoke`, and SmolLM2-135M at 1,024 tokens. `bench/costs.py` renews it.
SECONDS = {
    "assets": (1.1, 0.6),
    "prompts": (0.1, 0.12),
    "moments": (0.5, 2.0),
    "dense": (0.3, 0.69),
    "probes": (0.3, 0.55),
    "oracle": (0.2, 0.63),
    "margins": (0.3, 0.97),
    "calibration": (0.5, 0.0),
    "evaluation": (1.9, 0.69),
    "figures": (0.9, 6.0),
    "track": (1.0, 0.0),
}
GPU_SECONDS = {
    "moments": (2.0, 3.0),
    "dense": (0.8, 0.6),
    "probes": (0.4, 5.0),
    "oracle": (0.2, 7.0),
    "margins": (2.0, 24.0),
    "evaluation": (1.0, 1.2),
}
"""The same where the slice says cuda: four models of 135M to 1.5B parameters at 1,024 to 16,384 tokens, on NVIDIA H200s
that about fourteen processes share each; fewer processes are up to twice as fast."""
START = 0.3
"""Seconds until a process works that a run's warm process forks; where there is none, imports take three."""

SLOWER = {"float64": 2.0, "bfloat16": 2.7, "float16": 2.7}  # than float32, on a processor

QUESTION = 64  # tokens of a question with the answer's prefix, which every row reads for itself


def work(node: Node) -> float:
    """Return about how many seconds a job takes on the reference machine. It follows from the plan alone."""
    each, factor = (GPU_SECONDS if device_of(node) == "cuda" else SECONDS)[node.stage]
    return each + factor * ideal(node)


def device_of(node: Node) -> str:
    """Return where a job computes: "cuda", or "cpu" for one without a choice too."""
    return str(json.loads(node.spec).get("device", "cpu"))


@cache
def ideal(node: Node) -> float:
    """Return the seconds that a job's forward passes would take at the reference machine's limit; others have units."""
    return _IDEAL[node.stage](Job(node)) if node.stage in _IDEAL else 0.0


class Job:
    """What a job does, in numbers.

    Attributes:
        spec: its slice.
        cell: the slice of its prompts.
        machine: the reference machine of its device.
    """

    def __init__(self, node: Node):
        self.node, self.spec = node, json.loads(node.spec)
        prompts = _nearest(node, "prompts")
        self.cell: Spec = json.loads(prompts.spec) if prompts else {}
        self.machine = MACHINES[self.spec.get("device", "cpu")]
        self.expect = _expect(node)
        self.tokens: int = self.spec.get("length") or self.cell.get("length", 0)

    def prompts(self, *splits: str) -> int:
        """Count the prompts of some splits; of a data set, at most."""
        samples: dict[str, int] = self.cell["samples"]
        return sum(samples[split] for split in splits)

    @property
    def answer(self) -> int:
        """The most tokens that an answer may take."""
        return _longest_answer(self.cell["kind"], self.cell["task"])

    @property
    def rows(self) -> int:
        """How many rows decode at once: of each target of each criterion, or of each prompt."""
        if self.node.stage == "evaluation":
            fitted = [c["calibrated_on"] is not None or "selector" in c for c in self.spec["criteria"].values()]
            return sum(len(self.spec["targets"]) if is_fitted else 1 for is_fitted in fitted)
        return self.prompts("evaluation", "calibration") if self.node.stage == "dense" else 1

    @property
    def parameters(self) -> float:
        """About how many numbers the model's weights are."""
        return parameters(self.expect)

    @property
    def pairs(self) -> int:
        """Query heads of the whole model."""
        return int(self.expect["layers"] * self.expect["heads"])

    def forward(self, rows: int, tokens: int, keys: float) -> float:
        """Return the seconds of a forward pass of `rows` rows of `tokens` tokens, each of which sees `keys` keys."""
        flops = rows * tokens * (2 * self.parameters + 4 * self.pairs * self.expect["head_dim"] * keys)
        weights = self.parameters * BYTES[self.spec["dtype"]]
        machine = self.machine
        slower = SLOWER.get(self.spec["dtype"], 1.0) if machine is MACHINES["cpu"] else 1.0
        return float(
            slower * flops / machine.flops + weights / machine.bandwidth + self.expect["layers"] * machine.start
        )

    def read(self) -> float:
        """Return the seconds of reading one prompt."""
        return self.forward(1, self.tokens, self.tokens / 2)

    def answers(self, rows: int) -> float:
        """Return the seconds of decoding answers of full length, all rows at once."""
        return self.answer * self.forward(rows, 1, self.tokens)


def _dense(job: Job) -> float:
    return job.rows * job.read() + job.answers(job.rows)


def _probes(job: Job) -> float:
    return min(job.prompts("calibration"), job.spec.get("prompts") or job.prompts("calibration")) * job.read()


def _recorded(job: Job) -> float:
    return job.prompts("evaluation", "calibration") * job.read()


def _evaluation(job: Job) -> float:
    question = job.forward(job.rows, QUESTION, job.tokens)
    return job.prompts("evaluation") * (job.read() + question + job.answers(job.rows))


def _moments(job: Job) -> float:
    return job.read()


def _prompts(job: Job) -> float:
    """Count a tenth of a second for each thousand tokens: a tokenizer sizes every prompt several times."""
    return 1e-4 * job.prompts("evaluation", "calibration") * job.tokens


def _tables(job: Job) -> float:
    """Count ten million recorded pairs a second."""
    return recorded_pairs(job) * 1e-7


def _assets(job: Job) -> float:
    return job.parameters * 2e-7 if job.spec["kind"] == "model" else 0.0


_IDEAL = {
    "assets": _assets,
    "prompts": _prompts,
    "moments": _moments,
    "dense": _dense,
    "probes": _probes,
    "oracle": _recorded,
    "margins": _recorded,
    "calibration": _tables,
    "evaluation": _evaluation,
    "figures": _tables,
}

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


def recorded_pairs(job: Job) -> int:
    """Return about how many (query, head) pairs the tables of oracle and margins hold that a job reads."""
    parents = [Job(parent) for parent in job.node.parents if parent.stage in ("oracle", "margins")]
    return sum(parent.prompts("evaluation", "calibration") * parent.answer * parent.pairs for parent in parents)


def parameters(expect: Spec) -> float:
    """Return about how many parameters a decoder has: a layer has about twelve squares of its width."""
    return float(12 * expect["layers"] * (expect["heads"] * expect["head_dim"]) ** 2)


@cache
def _nearest(node: Node, stage: str) -> Node | None:
    """Return the node itself or the nearest ancestor of a stage along the first parents that have one."""
    if node.stage == stage:
        return node
    return next((found for parent in node.parents if (found := _nearest(parent, stage))), None)


@cache
def _expect(node: Node) -> Spec:
    """Return the sizes of the model that a job works on; an empty slice if it needs none."""
    if node.stage == "assets":
        expect: Spec = json.loads(node.spec).get("expect", {})
        return expect
    return next((expect for parent in node.parents if (expect := _expect(parent))), {})


@cache
def _longest_answer(kind: str, task: str) -> int:
    tokens: int = import_module(module_of(kind, task)).TASKS[task].max_new_tokens
    return tokens

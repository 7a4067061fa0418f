"""What memory jobs need, before any of them has run."""

import csv
import json
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from headscope.errors import ConfigError
from headscope.models import generation
from headscope.pipeline.plan import costs, memory
from headscope.pipeline.plan.memory import gpu_mb, memory_mb, refuse_too_large
from headscope.pipeline.stages import evaluation

SMALL = ("experiment=smoke", "criterion=[dense,lost_output]", "model=smollm2_135m")


def largest(plan, need=memory_mb) -> dict[str, int]:
    results = plan.root / plan.results
    return {stage: max(need(results, node) for node in nodes.values()) for stage, nodes in plan.nodes.items() if nodes}


def put_model(plan, numbers: int) -> None:
    """Write an asset whose weights are so many numbers."""
    [node] = [node for node in plan.nodes["assets"].values() if "smollm2" in node.name]
    folder = plan.root / plan.folder(node)
    (folder / "model").mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"model": "model"}))
    weights = {"a": torch.zeros(numbers // 2, dtype=torch.bfloat16), "b": torch.zeros(1, numbers - numbers // 2)}
    save_file(weights, folder / "model/model.safetensors")


def test_memory_grows_with_model_and_length_and_dtype(build, tmp_path):
    options = *SMALL, f"results={tmp_path}"
    base = largest(build(*options))
    for more in ("model=qwen25_coder_15b", "model.dtype=float64", "benchmark.ruler.lengths=[8192]"):
        after = largest(build(*options, more, *(["model.dtype=float32"] if "qwen" in more else [])))
        assert {stage for stage in base if after[stage] > base[stage]} >= {"dense", "oracle", "margins", "evaluation"}


def test_the_weights_that_are_here_are_counted_and_not_guessed(build, tmp_path):
    plan = build(*SMALL, f"results={tmp_path}")
    guessed = largest(plan)["dense"]
    put_model(plan, 4_000_000)
    assert guessed - largest(plan)["dense"] == pytest.approx((memory.MOST * 119.4e6 - 4e6) * 6 / 2**20, rel=0.01)


def test_a_gpu_holds_the_weights_once_and_a_job_without_one_needs_no_such_memory(build, tmp_path):
    plan = build(*SMALL, f"results={tmp_path}", "model.device=cuda", "model.dtype=bfloat16")
    needs = largest(plan, gpu_mb)
    assert needs["prompts"] == needs["calibration"] == needs["figures"] == 0
    assert needs["evaluation"] > needs["dense"] > memory.MOST * 119.4e6 * 2 / 2**20
    assert set(largest(build(*SMALL, f"results={tmp_path}"), gpu_mb).values()) == {0}


MEASURED = Path(__file__).parents[2] / "results/reference/models/gpu_memory.csv"


@pytest.mark.parametrize("model", ["smollm2_135m", "gemma3_270m", "qwen25_coder_05b", "qwen25_coder_15b"])
def test_jobs_of_the_study_of_models_took_what_of_a_gpu_is_predicted(build, monkeypatch, model):
    with MEASURED.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["model"] == model]
    assert len(rows) >= 24  # six stages at four lengths
    monkeypatch.setattr(memory, "_numbers", lambda *_: int(rows[0]["parameters"]))
    lengths = sorted({int(row["length"]) for row in rows})
    point = f"model={model} benchmark.ruler.lengths={lengths} benchmark.longbench_local.lengths={lengths}"
    plan, predicted = build("experiment=models", f'points=["{point.replace(", ", ",")}"]'), defaultdict(int)
    for node in plan:
        job = costs.Job(node)
        predicted[node.stage, job.tokens] = max(predicted[node.stage, job.tokens], gpu_mb(plan.root, node))
    for row in rows:
        needed = memory.GPU_PROCESS + memory.UNUSED * int(row["peak_gpu_mb"])
        assert 0.4 < needed / predicted[row["stage"], int(row["length"])] < 1, row


def test_rows_attend_to_float32_keys_beside_those_of_half_precision(build, tmp_path):
    def growth(dtype: str, stage: str) -> int:
        options = *SMALL, f"results={tmp_path}", "model.device=cuda", f"model.dtype={dtype}"
        short, long = (largest(build(*options, f"benchmark.ruler.lengths=[{n}]"), gpu_mb) for n in (1024, 8192))
        return long[stage] - short[stage]

    token = 2 * 30 * 3 * 64 * 7168 / 2**20  # numbers of keys and values of 7,168 tokens more, in units of MiB
    for stage, bfloat16, float32 in (("evaluation", 24, 16), ("margins", 6, 4), ("oracle", 2, 4)):
        assert growth("float32", stage) - growth("bfloat16", stage) == pytest.approx(
            memory.UNUSED * (float32 - bfloat16) * token, abs=2
        )


@pytest.mark.parametrize(
    ("dtype", "remedy"), [("float32", "model.dtype=bfloat16, a smaller"), ("bfloat16", "a smaller")]
)
def test_a_model_larger_than_this_machine_is_refused_before_it_starts(build, tmp_path, monkeypatch, dtype, remedy):
    plan = build(*SMALL, f"results={tmp_path}", f"model.dtype={dtype}")
    put_model(plan, 3_000_000)
    size = 3_000_000 * (4 if dtype == "float32" else 2)
    unfinished = {node.address for node in plan}
    monkeypatch.setattr(memory.os, "sysconf", lambda name: size if name == "SC_PHYS_PAGES" else 1)
    refuse_too_large(plan, unfinished)
    monkeypatch.setattr(memory.os, "sysconf", lambda name: size - 1 if name == "SC_PHYS_PAGES" else 1)
    refuse_too_large(plan, set())  # what is done needs no memory
    with pytest.raises(ConfigError, match=f"option model.dtype: dense/.* weights in {dtype}, .* choose {remedy}"):
        refuse_too_large(plan, unfinished - {node.address for node in plan.nodes["moments"].values()})
    refuse_too_large(build(*SMALL, f"results={tmp_path}", "model.device=cuda"), unfinished)


def test_a_guess_of_the_weights_refuses_only_what_is_clearly_too_large(build, tmp_path, monkeypatch):
    plan = build(*SMALL, f"results={tmp_path}")
    monkeypatch.setattr(memory.os, "sysconf", lambda name: 119_400_000 * 4 // 2 if name == "SC_PHYS_PAGES" else 1)
    refuse_too_large(plan, {node.address for node in plan})


def test_prompts_that_are_held_together_are_counted(build, tmp_path):
    options = *SMALL, f"results={tmp_path}", "model.dtype=float32"
    token = 2 * 30 * 3 * 64 * 4 / 2**20  # MiB of keys and values
    few = largest(build(*options))
    many = largest(build(*options, "benchmark.ruler.samples={evaluation: 8, calibration: 2}"))
    # dense and five targets: all eight prompts decode together, each with six rows.
    assert many["evaluation"] - few["evaluation"] >= 6 * 1024 * token
    assert many["dense"] - few["dense"] >= 6 * 1024 * token
    most = largest(build(*options, "benchmark.ruler.samples={evaluation: 500, calibration: 2}"))
    assert most["dense"] - few["dense"] <= 512  # no more have room on a processor
    assert most["evaluation"] == largest(build(*options, "benchmark.ruler.samples={evaluation: 400}"))["evaluation"]


def test_rows_and_room_of_prompts_that_are_held_together_are_those_of_the_stages():
    assert memory.TOGETHER == evaluation.TOGETHER
    assert memory.DENSE_BYTES["cpu"] == generation.CPU_BYTES
    assert memory.DENSE_BYTES["cuda"] >= 256 * 2**30 * generation.GPU_SHARE  # more than any GPU has


def test_tables_of_more_pairs_need_more_memory(build, tmp_path):
    few, many = (
        largest(
            build(*SMALL, f"results={tmp_path}", f"benchmark.ruler.samples={{evaluation: 2, calibration: {count}}}")
        )
        for count in (2, 200)
    )
    for stage in ("calibration", "figures"):
        assert few[stage] < many[stage]
    assert few["prompts"] == many["prompts"]

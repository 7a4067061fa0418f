"""What jobs cost, before any of them has run."""

import pytest

from headscope.pipeline.plan.costs import work

SMALL = ("experiment=smoke", "criterion=[dense,qada_random_words,lost_output]")
MODEL = ("model=smollm2_135m", "model.dtype=float32")
GROWS = {
    "benchmark.ruler.lengths=[2048]": {"prompts", "moments", "dense", "oracle", "margins", "probes", "evaluation"},
    "benchmark.ruler.samples.evaluation=4": {"prompts", "dense", "oracle", "margins", "evaluation", "figures"},
    "benchmark.ruler.samples.calibration=4": {"prompts", "dense", "oracle", "margins", "probes", "figures"},
    "calibration.targets=[.1,.2,.3,.4,.5,.6,.7,.8,.9]": {"evaluation"},
    "model.dtype=float64": {"moments", "dense", "oracle", "margins", "probes", "evaluation"},
}


def works(plan) -> dict[str, float]:
    return {stage: sum(work(node) for node in nodes.values()) for stage, nodes in plan.nodes.items()}


@pytest.mark.parametrize("option", GROWS)
def test_a_stage_takes_longer_with_more_of_what_it_works_on_and_no_other_stage_does(build, option):
    before, after = works(build(*SMALL, *MODEL)), works(build(*SMALL, *MODEL, option))
    assert {stage for stage in before if after[stage] > before[stage]} == GROWS[option]


def test_every_stage_takes_longer_on_a_model_ten_times_the_size(build):
    small, large = works(build(*SMALL, *MODEL)), works(build(*SMALL, "model=qwen25_coder_15b", "model.dtype=float32"))
    assert {stage for stage in small if large[stage] > 3 * small[stage]} == {
        *("assets", "moments", "dense", "oracle", "margins", "probes", "evaluation")
    }


def test_work_follows_from_the_plan_alone(build):
    assert works(build(*SMALL)) == works(build(*SMALL))


def test_a_gpu_takes_less_time_than_a_processor_core(build):
    for stage in ("dense", "evaluation"):
        assert works(build(*SMALL, *MODEL, "model.device=cuda"))[stage] < works(build(*SMALL, *MODEL))[stage]

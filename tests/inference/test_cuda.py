"""The engine and the recorder on a GPU against the CPU; skipped without one."""

import pytest
import test_outlier_rows as outlier_rows
import torch
from adaptive_cases import IDS as PROMPTS
from adaptive_cases import calibrated, generated
from test_lab_evaluation import BOUNDARY, BUDGET, EOS, IDS, WINDOW, criteria
from tiny_models import random_ids, tiny_model

from headscope import adaptive
from headscope.heads.criteria import build
from headscope.heads.estimators import build as build_estimator
from headscope.heads.moments import KeyMoments
from headscope.lab.evaluation import answer_rows
from headscope.lab.masses import record_masses
from headscope.lab.rows import Rows

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_all_rows_equal_those_of_the_cpu_in_float64(family: str) -> None:
    model = tiny_model(family)
    expected = answer_rows(model, IDS, BOUNDARY, criteria(), WINDOW, BUDGET, [EOS])
    found = answer_rows(model.to("cuda"), IDS, BOUNDARY, criteria(), WINDOW, BUDGET, [EOS])
    assert found == expected


def test_recorded_masses_equal_those_of_the_cpu() -> None:
    model = tiny_model("llama")
    expected = record_masses(model, IDS, random_ids(5), BOUNDARY, WINDOW, [])
    found = record_masses(model.to("cuda"), IDS, random_ids(5), BOUNDARY, WINDOW, [])
    for layer, masses in found.items():  # transformers rotates in float32 even for a float64 model
        torch.testing.assert_close(masses.masses.local.cpu(), expected[layer].masses.local, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(masses.masses.bulk.cpu(), expected[layer].masses.bulk, rtol=1e-5, atol=1e-5)


def test_half_precision_decodes_and_counts() -> None:
    answers = answer_rows(tiny_model("llama", torch.bfloat16).cuda(), IDS, BOUNDARY, criteria(), WINDOW, BUDGET, [EOS])
    assert answers[0].sparsity == 0 and answers[1].sparsity == 1 and 0 < answers[3].sparsity < 1


def test_outliers_and_moments_of_another_text_are_those_of_the_cpu_in_float64() -> None:
    model, moments = tiny_model("llama"), {layer: KeyMoments.of(torch.randn(2, 30, 8)) for layer in range(3)}
    other = build_estimator({**outlier_rows.GAUSSIAN, "moments": "random_words"}, {"random_words": moments})
    rows = [
        Rows(outlier_rows.criterion("lost_output"), outlier_rows.ROUNDED),
        Rows(outlier_rows.criterion("lost_output", outlier_rows.ONE), outlier_rows.SHARED),
        Rows(build({"kind": "qada"}, [{"threshold": 0.2}], other), outlier_rows.ROUNDED),
    ]
    options = {"probes": outlier_rows.fitted(model)}
    expected = answer_rows(model, IDS, BOUNDARY, rows, WINDOW, BUDGET, [EOS], **options)
    assert answer_rows(model.to("cuda"), IDS, BOUNDARY, rows, WINDOW, BUDGET, [EOS], **options) == expected


def test_prompts_are_decided_as_on_the_cpu_in_float64() -> None:
    model = tiny_model("llama")
    criterion = calibrated(model, "qada", scope="prompt", chunk=11)
    with adaptive(model, criterion) as run:
        expected, shares = generated(model, PROMPTS), run.prompts[:2]  # the third prompt has no bulk: NaN
    with adaptive(model.to("cuda"), criterion) as run:
        assert torch.equal(generated(model, PROMPTS), expected) and run.prompts[:2] == shares

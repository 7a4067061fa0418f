import math

import pytest
import torch
from tiny_models import random_ids, tiny_model

from headscope.heads.estimators import build as build_estimator
from headscope.heads.window import Window
from headscope.lab.diagnosis import diagnose, wavelengths
from headscope.lab.masses import record_masses
from headscope.lab.prefill import prefill_densely
from headscope.models.attention import attention

WINDOW, BOUNDARY = Window(sink=4, recent=16), 60
GAUSSIAN = {"kind": "gaussian", "name": "g", "covariance": "full", "moments": "prompt"}


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_errors_and_shares_are_those_of_the_recorded_masses(family: str) -> None:
    model, ids, fed = tiny_model(family), random_ids(70), random_ids(8, 5)
    recorded = record_masses(model, ids, fed, BOUNDARY, WINDOW, [build_estimator(GAUSSIAN, {})])
    found = diagnose(model, [*ids, *fed], BOUNDARY, [WINDOW, Window(0, 16)])
    assert found.keys() == recorded.keys()
    for layer, expected in recorded.items():
        fit, masses = found[layer].fits[WINDOW], expected.masses
        error = expected.estimates["g"] - masses.bulk[0]
        torch.testing.assert_close(fit["bias"], error.mean(-1))
        torch.testing.assert_close(fit["rmse"], error.square().mean(-1).sqrt())
        torch.testing.assert_close(fit["lost_share"], torch.sigmoid(masses.bulk - masses.local)[0].mean(-1))
        assert found[layer].queries == {WINDOW: 18, Window(0, 16): 18}


@pytest.mark.parametrize("family", ["llama", "gemma3", "phi3"])
def test_wavelengths_are_those_of_the_rotary_base(family: str) -> None:
    model = tiny_model(family)
    base = 1e6 if family == "gemma3" else 1e4
    expected = [2 * math.pi * base ** (2 * pair / 8) for pair in range(4)] * 2
    torch.testing.assert_close(wavelengths(model, 1, 78, 8), torch.tensor(expected), rtol=1e-4, atol=0)


def test_the_slow_share_is_the_variance_of_pairs_that_turn_less_than_once() -> None:
    model, ids = tiny_model("llama"), random_ids(78)
    with attention(model), torch.inference_mode():
        caches = prefill_densely(model, ids)
    for layer, found in diagnose(model, ids, BOUNDARY, [WINDOW]).items():
        bulk = caches[layer].keys[:, 4 : BOUNDARY - 16]
        variance = bulk.var(1, correction=0)
        slow = variance[:, [2, 3, 6, 7]].sum(1) / variance.sum(1)  # wavelengths 6, 63, 628 and 6,283 of 78 tokens
        torch.testing.assert_close(found.slow_share, slow)

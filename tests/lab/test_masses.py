import numpy as np
import pytest
import torch
from tiny_models import CONFIGS, random_ids, tiny_model

from headscope.heads.estimators import build as build_estimator
from headscope.heads.moments import KeyMoments, gaussian_log_mass
from headscope.heads.window import Window
from headscope.kernels.common import device
from headscope.lab.masses import exact_masses, record_masses
from headscope.models.attention import NAME, attention, causal_attention

WINDOW, BOUNDARY = Window(sink=4, recent=16), 60
GAUSSIAN = {"kind": "gaussian", "name": "g", "covariance": "full", "moments": "prompt"}


class Keeper:
    """Keeps each full-attention layer's call, to recompute from."""

    def __init__(self):
        self.calls = {}

    def attend(self, call):
        if call.sliding is None:
            self.calls[call.layer] = call
        return causal_attention(call)


@pytest.mark.parametrize("family", [name for name in CONFIGS if name != "mistral_sliding"])
def test_recorded_masses_equal_eager_attention_weights_in_float64(family: str) -> None:
    model, ids, fed = tiny_model(family), random_ids(70), random_ids(8, 5)
    layers = record_masses(model, ids, fed, BOUNDARY, WINDOW, [])
    assert model.config._attn_implementation != NAME
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        weights = model(torch.tensor([[*ids, *fed]]), output_attentions=True).attentions
    positions = torch.arange(BOUNDARY, 78)
    local = WINDOW.local(positions, torch.arange(78)).double()
    for layer, found in layers.items():
        share = (weights[layer][0, :, BOUNDARY:] * local).sum(-1)
        expected = torch.sigmoid(found.masses.local - found.masses.bulk)[0]
        # transformers computes its softmax in float32 even for a float64 model.
        torch.testing.assert_close(expected, share.double(), rtol=1e-4, atol=1e-5)


def test_sliding_layers_are_not_recorded() -> None:
    assert list(record_masses(tiny_model("gemma3"), random_ids(70), [], BOUNDARY, WINDOW, [])) == [1]
    assert list(record_masses(tiny_model("mistral_sliding"), random_ids(70), [], BOUNDARY, WINDOW, [])) == []


def test_estimates_use_the_bulk_keys_frozen_at_the_boundary_and_the_true_count() -> None:
    model, ids, fed = tiny_model("llama"), random_ids(70), random_ids(8, 5)
    layers = record_masses(model, ids, fed, BOUNDARY, WINDOW, [build_estimator(GAUSSIAN, {})])
    keeper = Keeper()
    with attention(model), torch.inference_mode():
        model(torch.tensor([[*ids, *fed]]), headscope=keeper)
    call = keeper.calls[2]
    moments = KeyMoments.of(call.key[0, :, 4 : BOUNDARY - 16])
    size = torch.arange(BOUNDARY, 78) + 1 - 4 - 16
    expected = gaussian_log_mass(*moments.score_moments(call.query[:, :, BOUNDARY:], call.scale), size)[0]
    torch.testing.assert_close(layers[2].estimates["g"], expected)
    assert torch.equal(layers[2].masses.bulk_size, size)


def test_kept_scores_are_those_behind_the_last_prompt_tokens_bulk_mass() -> None:
    model, ids = tiny_model("qwen2"), random_ids(70)
    for found in record_masses(model, ids, random_ids(3, 5), BOUNDARY, WINDOW, []).values():
        mass = np.logaddexp.reduce(found.scores.numpy(), axis=1)
        np.testing.assert_allclose(mass, found.masses.bulk[0, :, len(ids) - 1 - BOUNDARY].numpy(), rtol=1e-9)


def test_exact_masses_come_from_the_kernel_where_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="the kernels need Triton: pip install triton")
    from headscope.kernels.mass.masses import masses

    where = "cuda" if torch.cuda.is_available() else "cpu"
    query, key = (torch.randn(1, heads, 30, 64, device=where).half() for heads in (6, 2))
    position = torch.arange(30, device=where)
    monkeypatch.setattr(device, "serve", lambda *_: True)
    by_kernel = exact_masses(query, key, position, WINDOW, 0.1)
    monkeypatch.setattr(device, "serve", lambda *_: False)
    by_torch = exact_masses(query, key, position, WINDOW, 0.1)
    assert torch.equal(by_kernel.bulk, masses(query, key, position, 4, 16, 0.1)[1])
    torch.testing.assert_close(by_kernel.local, by_torch.local)
    torch.testing.assert_close(by_kernel.bulk, by_torch.bulk)
    assert torch.equal(by_kernel.bulk_size, by_torch.bulk_size)

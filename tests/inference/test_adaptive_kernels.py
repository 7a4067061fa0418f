"""Generation by the decoding kernels in half precision (interpreted where no GPU is), against the torch reference."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from adaptive_cases import IDS, WINDOW, calibrated, generated, small
from kernel_stand_in import reference_step

from headscope import adaptive
from headscope.inference import kernel_decode as decoding
from headscope.kernels.common import device

pytest.importorskip("triton", reason="the kernels need Triton: pip install triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float16  # the interpreter multiplies the bits of bfloat16


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch):
    """Queries go through the kernels and a copy of their state through the reference; what was seen of each."""
    from headscope.kernels.decode.attend import Workspace

    monkeypatch.setattr(Workspace, "of", partial(Workspace.of, programs=5))
    run, seen = decoding.decide_and_attend, []

    def compared(state, query, pair, span, window):
        copies = {
            name: None if (part := getattr(state, name)) is None else _double(part)
            for name in ("summary", "means", "outliers", "rule")
        }
        exact = replace(state, **copies)
        found = run(state, query, pair, span, window)
        true = reference_step(exact, query.double(), pair, span, window)
        assert (found.long == true.long).float().mean() > 0.7  # rounding decides near the threshold
        same = found.long == true.long
        torch.testing.assert_close(found.output[same].double(), true.output[same], rtol=0.02, atol=0.02)
        if state.means is not None:
            torch.testing.assert_close(state.summary.size, exact.summary.size.float(), rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(state.means.keys, exact.means.keys.float(), rtol=1e-3, atol=1e-3)
        seen.append((len(query), span.starts is not None, found.long.float().mean().item()))
        return found

    monkeypatch.setattr(decoding, "decide_and_attend", compared)
    return seen


def _double(part):
    numbers = {k: v.double() for k, v in vars(part).items() if torch.is_tensor(v) and v.is_floating_point()}
    return replace(part, **{**numbers, **({"count": part.count.clone()} if hasattr(part, "count") else {})})


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("recipe", ["lost_output", "qada"])
def test_kernels_decide_and_attend_as_the_reference(
    both, recipe: str, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small(dtype=DTYPE).to(DEVICE)
    criterion = calibrated(model, recipe)
    monkeypatch.setattr(device, "serve", lambda *_: True)
    both.clear()  # on a GPU the check of the model decided by kernels too
    for rows in (IDS[::2], IDS[1:2]):
        with adaptive(model, criterion) as run:
            generated(model, rows, max_new_tokens=3, min_new_tokens=3, cache_implementation=cache)
            assert {layer.summary.keys.dtype for layer in run._decoding.layers.values()} == {DTYPE}
    assert {(count, padded) for count, padded, _ in both} == {(2, True), (1, False)}
    assert 0 < sum(share for *_, share in both) < len(both)
    assert min(len(ids) for ids in IDS) < WINDOW.recent


@pytest.fixture
def prompts(monkeypatch: pytest.MonkeyPatch):
    """Prompts go through the kernels and through the reference in float64; what was seen of each."""
    from headscope.kernels.prefill import attend, reference

    run, seen = attend.attend_prompt, []

    def compared(query, key, value, prefix, rule, *ends):
        found = run(query, key, value, prefix, rule, *ends)
        exact = (x.double() for x in (query, key, value, prefix.mean, prefix.covariance))
        true = reference.attend_prompt(*exact, prefix.summary_of_token.long(), _double(rule), *ends)
        assert (found.long == true.long).float().mean() > 0.9  # rounding decides near the threshold
        same = found.long == true.long
        torch.testing.assert_close(found.output[same].double(), true.output[same], rtol=0.02, atol=0.02)
        seen.append((*query.shape[::2], found.long.float().mean().item()))
        return found

    monkeypatch.setattr(attend, "attend_prompt", compared)
    return seen


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_kernels_read_prompts_as_the_reference(prompts, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(dtype=DTYPE).to(DEVICE)
    criterion = calibrated(model, "qada", scope="prompt", chunk=11)
    monkeypatch.setattr(device, "serve", lambda *_: True)
    for rows in (IDS, [IDS[1], IDS[1][::-1]]):
        with adaptive(model, criterion) as run:
            generated(model, rows, max_new_tokens=1, min_new_tokens=1, cache_implementation=cache)
        assert run.prompts[0].queries == len(rows[0]) - WINDOW.sink - WINDOW.recent
    assert {seen[:2] for seen in prompts} == {(1, 80), (1, 57), (1, 12), (2, 57)}
    assert 0 < sum(share for *_, share in prompts) < len(prompts)

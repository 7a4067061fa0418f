import numpy as np
import pytest
import torch

from headscope.heads import mass
from headscope.heads.gaussian_fit import NORMAL, Layer, effective_rank, score_quantiles, spectrum, window_fit
from headscope.heads.window import Window

BOUNDARY, KEYS, SCALE = 100, 120, 0.5


def layer(dtype: torch.dtype = torch.float64) -> Layer:
    generator = torch.Generator().manual_seed(3)
    query = torch.randn(4, KEYS - BOUNDARY, 6, generator=generator, dtype=torch.float64)
    key = torch.randn(2, KEYS, 6, generator=generator, dtype=torch.float64) + 0.3
    return Layer(query.to(dtype), key.to(dtype), BOUNDARY, SCALE)


def written_out(window: Window) -> tuple[dict[str, list[float]], list[np.ndarray]]:
    """Measures and mean quantiles of each head, query by query in float64, with numpy alone."""
    query, key = layer().query.numpy(), layer().key.numpy()
    found, quantiles = {}, []
    for head in range(4):
        frozen = key[head // 2, window.sink : BOUNDARY - window.recent]
        centre, spread = frozen.mean(0), np.cov(frozen.T, bias=True)
        rows, curves = [], []
        for t in range(BOUNDARY, KEYS):
            q, scores = query[head, t - BOUNDARY], key[head // 2, : t + 1] @ query[head, t - BOUNDARY] * SCALE
            bulk = scores[window.sink : t - window.recent + 1]
            mean, variance = centre @ q * SCALE, q @ spread @ q * SCALE**2
            error = np.log(len(bulk)) + mean + variance / 2 - np.log(np.exp(bulk).sum())
            z = (bulk - bulk.mean()) / bulk.std()
            weight = np.sort(np.exp(bulk) / np.exp(bulk).sum())[::-1]
            share = np.exp(bulk).sum() / np.exp(scores).sum()
            top = [weight[:count].sum() for count in (1, 8, 64)]
            rows.append([error, share, bulk.std(), (z**3).mean(), (z**4).mean() - 3, *top])
            curves.append([np.quantile(z, p) for p in torch.special.ndtr(NORMAL).numpy()])
        means = np.mean(rows, axis=0)
        rmse = np.sqrt(np.mean(np.square([row[0] for row in rows])))
        names = ["bias", "lost_share", "score_std", "skewness", "kurtosis", "top_1", "top_8", "top_64"]
        for name, value in {**dict(zip(names, means, strict=True)), "rmse": rmse}.items():
            found.setdefault(name, []).append(value)
        quantiles.append(np.mean(curves, axis=0))
    return found, quantiles


@pytest.mark.parametrize("window", [Window(4, 16), Window(0, 32), Window(1, 1)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
def test_measures_and_quantiles_are_those_written_out_in_float64(window, dtype, tolerance) -> None:
    expected, quantiles = written_out(window)
    found = window_fit(layer(dtype), window)
    assert found.keys() == expected.keys()
    for name, values in found.items():
        np.testing.assert_allclose(values.numpy(), expected[name], rtol=10 * tolerance, atol=tolerance, err_msg=name)
    np.testing.assert_allclose(score_quantiles(layer(dtype), window), quantiles, rtol=1e-4, atol=10 * tolerance)


def test_chunks_of_queries_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    window = Window(4, 16)
    whole, quantiles = window_fit(layer(), window), score_quantiles(layer(), window)
    monkeypatch.setattr(mass, "MAX_SCORES", 3 * 4 * KEYS)
    assert len(list(layer().chunks(layer().with_bulk(window)))) == 7
    torch.testing.assert_close(window_fit(layer(), window), whole)
    torch.testing.assert_close(score_quantiles(layer(), window), quantiles)


@pytest.mark.parametrize("window", [Window(4, 200), Window(4, 110), Window(4, 96)])
def test_a_window_that_left_no_key_to_fit_to_at_the_boundary_has_no_measures(window: Window) -> None:
    assert window_fit(layer(), window) == {}
    assert score_quantiles(layer(), window).isnan().all()


def test_equal_keys_have_an_exact_gaussian_and_no_shape() -> None:
    same = Layer(layer().query.clone(), torch.zeros(2, KEYS, 6, dtype=torch.float64), BOUNDARY, SCALE)
    found = window_fit(same, Window(4, 16))
    assert found["rmse"].max() < 1e-12 and found["kurtosis"].isnan().all() and (found["score_std"] == 0).all()


def test_spectra_are_numpys_and_the_effective_rank_counts_equal_directions() -> None:
    root = torch.randn(3, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    covariance = root @ root.transpose(1, 2)
    for found, matrix in zip(spectrum(covariance), covariance.numpy(), strict=True):
        values = np.linalg.eigvalsh(matrix)[::-1]
        np.testing.assert_allclose(found, values / values.sum(), rtol=1e-9)
    flat = torch.diag(torch.tensor([2.0, 2.0, 2.0, 0.0]))[None]
    assert effective_rank(spectrum(flat)).tolist() == pytest.approx([3.0])

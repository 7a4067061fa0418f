"""What the engine asks of a GPU in each layer: nothing, since all processes on it wait for their turn then."""

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from tiny_models import SHAPE, random_ids
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, LlamaConfig

from headscope.heads.criteria import build
from headscope.heads.estimators import build as build_estimator
from headscope.heads.outliers import OutlierRule
from headscope.heads.window import Window
from headscope.lab.evaluation import answer_prompts
from headscope.lab.margins import margins
from headscope.lab.queries import LayerQueries
from headscope.lab.rows import Rows

WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2"}
PROMPT, WINDOW = random_ids(90, 0), Window(4, 16)


class Waits(TorchDispatchMode):
    """Counts operations whose results Python needs."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counter[str]()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        by_mask = name in {"index", "index_put", "index_put_"} and any(
            x is not None and x.dtype == torch.bool for x in args[1]
        )
        self.counts[name] += name in WAITING or by_mask
        return function(*args, **(kwargs or {}))


def rows(each: int) -> list[Rows]:
    """Rows of criteria with and without outliers, `each` of those with thresholds."""
    thresholds = [{"threshold": float(i)} for i in range(each)]
    gaussian = build_estimator({"kind": "gaussian", "name": "g", "covariance": "full", "moments": "prompt"}, {})
    clusters = build_estimator(
        {"kind": "clusters", "name": "c", "clusters": 4, "covariance": "diagonal", "bits": 8}, {}
    )
    return [
        Rows(build({"kind": "oracle"}, thresholds, None)),
        Rows(build({"kind": "qada"}, thresholds, gaussian)),
        Rows(build({"kind": "lost_output"}, thresholds, clusters), OutlierRule("recent", 6, bits=4)),
        Rows(build({"kind": "lost_output"}, thresholds, clusters), OutlierRule("last_queries", 6, shared=0.5)),
    ]


def evaluation(model: torch.nn.Module) -> None:
    fixed = [Rows(build({"kind": kind}, [{}], None)) for kind in ("dense", "local")]
    answer_prompts(model, [(PROMPT, 70)], [*fixed, *rows(2)], WINDOW, 3, [])


def calibration(model: torch.nn.Module) -> None:
    margins(model, PROMPT, 70, rows(1), WINDOW, None, 85)


@pytest.mark.parametrize("work", [evaluation, calibration])
def test_layers_let_python_wait_for_nothing(
    work: Callable[[torch.nn.Module], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LayerQueries, "_lazy", False)  # as on a GPU
    counts = []
    for layers in (2, 5):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(LlamaConfig(**{**SHAPE, "num_hidden_layers": layers})).eval()
        work(model)  # what is checked once for each model is
        with Waits() as waits:
            work(model)
        counts.append(waits.counts)
    assert counts[0] == counts[1]

"""What holds tensors goes to a device whole."""

import torch

from headscope.heads.criteria import build
from headscope.heads.estimators import build as build_estimator
from headscope.heads.moments import KeyMoments
from headscope.heads.to_device import joined, to_device

MAP = {"layers": [0, 2], "slope": [[1.0]] * 2, "offset": [[1.0]] * 2}


def tensors(found: object) -> list[torch.Tensor]:
    """Every tensor inside, found by what it refers to and not by its type."""
    if isinstance(found, torch.Tensor):
        return [found]
    parts = found.values() if isinstance(found, dict) else found if isinstance(found, tuple) else []
    parts = list(vars(found).values()) if hasattr(found, "__dict__") else list(parts)
    return [tensor for part in parts for tensor in tensors(part)]


def test_every_tensor_of_every_criterion_moves_and_no_value_changes() -> None:
    moments = {"text": {0: KeyMoments.of(torch.randn(1, 9, 4))}}
    spec = {"kind": "gaussian", "name": "g", "covariance": "full", "moments": "text"}
    estimator = build_estimator(spec, moments)
    targets = [{"threshold": 0.5, "map": MAP, "layers": [0, 2], "long": [[True], [False]]}] * 2
    for kind, count in {"dense": 5, "static": 3, "oracle": 5, "qada": 7, "lost_output": 7}.items():
        criterion = build({"kind": kind}, targets, estimator if count == 7 else None)
        assert len(tensors(criterion)) == count
        assert all(tensor.is_meta for tensor in tensors(to_device(criterion, torch.device("meta"))))
        same = to_device(criterion, torch.device("cpu"))
        assert type(same) is type(criterion)
        assert all(torch.equal(*pair) for pair in zip(tensors(criterion), tensors(same), strict=True))


def test_tensors_join_head_after_head_and_a_number_that_differs_is_none() -> None:
    short, long = (KeyMoments.of(torch.randn(2, count, 4)) for count in (7, 9))
    both = joined([{"of": (short, 5, "name")}, {"of": (long, 5, "name")}])
    moments, *same = both["of"]
    assert same == [5, "name"] and moments.count is None
    assert torch.equal(moments.mean, torch.cat([short.mean, long.mean]))
    assert joined([short, short]).count == 7
    rows = joined([torch.ones(1, 2, 3), torch.ones(2, 4, 3)])
    assert rows.shape == (3, 4, 3) and rows.sum() == 2 * 3 + 2 * 4 * 3

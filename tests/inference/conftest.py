import pytest
from adaptive_cases import calibrated, small

from headscope.inference import calibrate


@pytest.fixture(autouse=True)
def verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the comparison with the model, which tests/models/test_families.py makes of these families."""
    monkeypatch.setattr(calibrate, "refuse_unverified", lambda *_: None)


@pytest.fixture(scope="module")
def model():
    return small()


@pytest.fixture(scope="module")
def criterion(model):
    return calibrated(model)

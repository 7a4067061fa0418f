import pytest
import torch

pytest.importorskip("triton", reason="the kernels need Triton: pip install triton")


@pytest.fixture(scope="session")
def device() -> str:
    """A GPU, or Triton's interpreter on the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="session")
def dtype(device: str) -> torch.dtype:
    """The interpreter multiplies the bits of bfloat16 numbers, not the numbers."""
    return torch.bfloat16 if device == "cuda" else torch.float16

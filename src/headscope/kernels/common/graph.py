"""CUDA graphs: the launches of a function, recorded once and done again without Python."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor


class CudaGraph:
    """What a function does on a GPU, without the function."""

    def __init__(self, device: torch.device):
        self._device, self._graph = device, torch.cuda.CUDAGraph()

    def capture(self, run: Callable[[], Tensor]) -> Tensor:
        """Record a function and do it once; each replay leaves its result where this one lies."""
        stream, mode = _stream(self._device), "thread_local"  # other threads may use the GPU meanwhile
        with torch.cuda.device(self._device), torch.cuda.graph(self._graph, stream=stream, capture_error_mode=mode):
            output = run()
        self.replay()
        return output

    def replay(self) -> None:
        """Do it again with what is now in the tensors that it read, on the GPU's current stream."""
        with torch.cuda.device(self._device):
            self._graph.replay()


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for all captures on a GPU: cuBLAS keeps a workspace for each stream that it meets."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

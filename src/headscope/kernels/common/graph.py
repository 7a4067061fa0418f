"""CUDA graphs: the launches of a function, recorded once and done again without Python."""

import warnings
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


GRAPHS = {"cuda": CudaGraph}
"""By type of device."""


class Repeated:
    """Runs a step, records it the second time and replays it from then on.

    Attributes:
        graphed: whether steps are recorded: not where the device has no graphs or a step could not be captured.
    """

    def __init__(self, device: torch.device, graphed: bool = True):
        self.graphed = graphed and device.type in GRAPHS
        self._device = device
        self.restart()

    def restart(self) -> None:
        """Forget the recording: steps read and write other tensors from now on."""
        self._ran = False
        self._recording: tuple[CudaGraph, Tensor] | None = None

    def __call__(self, run: Callable[[], Tensor]) -> Tensor:
        """Do the step; its result lies where the recording left it, until the next step."""
        if not (self._ran and self.graphed):
            self._ran = True
            return run()
        if self._recording is None:
            graph = GRAPHS[self._device.type](self._device)
            try:
                self._recording = graph, graph.capture(run)
            except RuntimeError as error:  # nothing was run; a model that waits for its GPU, say
                warnings.warn(f"a decoding step cannot be captured and stays slow: {error}", stacklevel=2)
                self.graphed = False
                return run()
            return self._recording[1]
        graph, output = self._recording
        graph.replay()
        return output


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for all captures on a GPU: cuBLAS keeps a workspace for each stream that it meets."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

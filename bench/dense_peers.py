"""Dense attention on a GPU, and how everything there is timed: replays of a CUDA graph.

Shapes: B sequences, H query heads, K KV heads, Q queries, T keys, D head_dim.
"""

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

BACKENDS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}
PEERS = [*BACKENDS, "flex"]
REPLAYS = 20
PATIENCE = 500.0
"""Milliseconds after which a graph is replayed no more, three times at least."""
Run = Callable[[], Any]
Inputs = Sequence[tuple[Tensor, Tensor, Tensor]]
"""Queries [B, H, Q, D], keys and values [B, K, T, D], and copies of them that are read in turn."""


def milliseconds(runs: Sequence[Run]) -> float:
    """Median time of one of the runs, which follow each other in one CUDA graph."""
    for run in runs:  # nothing may be compiled while the graph is made
        run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for run in runs:
            run()
    times: list[float] = []
    while len(times) < REPLAYS + 2 and (len(times) < 5 or sum(times) * len(runs) < PATIENCE):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / len(runs))
    return median(times[2:])


def dense(peer: str, inputs: Inputs) -> list[Run]:
    """A peer's attention over each of the inputs: causal where there is a query for every key."""
    if peer == "flex":
        return _flex(inputs)
    return [partial(_torch, BACKENDS[peer], *x) for x in inputs]


def compared(peers: Sequence[str], inputs: Inputs) -> dict[str, float]:
    """Milliseconds of each peer over these inputs, the fastest first; one that cannot run is named and left out."""
    found = {}
    for peer in peers:
        try:
            found[peer] = milliseconds(dense(peer, inputs))
        except RuntimeError as error:
            print(f"{peer} does not take {tuple(inputs[0][0].shape)}: {str(error).splitlines()[0]}", flush=True)
    if not found:
        raise SystemExit("none of the peers runs here; name another by --peers")
    print(", ".join(f"{peer} {ms:.4g} ms" for peer, ms in found.items()), flush=True)
    return dict(sorted(found.items(), key=lambda peer: peer[1]))


def _torch(backend: SDPBackend, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    causal = query.shape[2] == key.shape[2]
    with sdpa_kernel(backend):
        return scaled_dot_product_attention(query, key, value, is_causal=causal, enable_gqa=True)


def _flex(inputs: Inputs) -> list[Run]:
    """FlexAttention, compiled once for inputs of one shape."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    queries, tokens = inputs[0][0].shape[2], inputs[0][1].shape[2]
    mask = None
    if queries == tokens:  # compiled, for otherwise it writes all T x T of the mask
        mask = torch.compile(create_block_mask)(
            lambda b, h, q, k: q >= k, None, None, queries, tokens, device=inputs[0][0].device
        )
    torch.compiler.reset()  # a shape more would otherwise count against the limit of recompilations
    compiled = torch.compile(flex_attention, dynamic=False)
    return [partial(compiled, *x, block_mask=mask, enable_gqa=True) for x in inputs]

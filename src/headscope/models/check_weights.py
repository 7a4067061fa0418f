"""Changes what single heads give and compares what moves behind them with what their weights are made of.

Shapes: B rows, H query heads, T tokens, D head_dim, E numbers of the residual stream.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from headscope.errors import UnsupportedModelError
from headscope.models.attention import LayerCall, causal_attention
from headscope.models.check import Finding
from headscope.models.geometry import geometry
from headscope.models.observe import EXACT, entering, hooked, observe, random_tokens, run
from headscope.models.residual import OutputPath, path_modules

TOKENS = 8
NUDGED = 2
"""Heads of a layer whose outputs are changed."""


def check_weights(model: PreTrainedModel) -> Finding:
    """Compare the residual stream behind changed heads with what `output_path` says, in every full-attention layer.

    A factor is allowed where all layers and heads share it, such as Granite's residual multiplier: it changes no label.
    """
    compared = "what moves behind a changed head"
    try:
        fits = _fits(model)
    except UnsupportedModelError as error:
        return Finding("weights of heads", compared, unknown=str(error), probes=True)
    factors = torch.tensor([fit.factor for fit in fits])
    spread = float((factors / factors.nanmedian() - 1).abs().nan_to_num(nan=0.0).max())
    worst = max(spread, *(fit.error for fit in fits))
    return Finding("weights of heads", compared, worst, 0.01 if model.dtype in EXACT else 0.2, probes=True)


class Fit(NamedTuple):
    """How a state moved along a prediction.

    Attributes:
        factor: that the prediction is multiplied by.
        error: what is left of the move, as a share of it.
    """

    factor: float
    error: float


class _Nudge:
    """Changes the output of one head in each of some rows, at the last token; attends as the model does.

    Changes are as large as the residual stream, whose rounding would hide small ones in half precision.

    Attributes:
        rows: by layer and head; row 0 is left as it is.
        states: of each layer.
        before: what the layer's path makes of row 0, [E], by layer.
        change: what it makes of a row, less that, [E], by row.
    """

    def __init__(self, rows: dict[tuple[int, int], int], states: dict[int, "_States"]):
        self.rows, self.states = rows, states
        self.before: dict[int, Tensor] = {}
        self.change: dict[int, Tensor] = {}

    def attend(self, call: LayerCall) -> Tensor:
        """Attend, [B, H, T, D], change the rows of this layer and keep what its path makes of them."""
        output = causal_attention(call)
        rows = {head: row for (layer, head), row in self.rows.items() if layer == call.layer}
        if rows:
            states = self.states[call.layer]
            heads, path = output[0, :, -1].float(), states.output_path
            self.before[call.layer] = path(heads.flatten())
            for head, row in rows.items():
                change = torch.zeros_like(heads)
                change[head] = torch.randn(heads.shape[1], generator=torch.Generator().manual_seed(row)).to(heads)
                moved = (path((heads + change).flatten()) - self.before[call.layer]).norm()
                # A pruned head moves nothing, whatever its size.
                output[row, :, -1] += (change * (states.entering[0].norm() / moved if moved else 1)).to(output)
                self.change[row] = path(output[row, :, -1].flatten().float()) - self.before[call.layer]
        return output


class _States:
    """Keeps the last token's states around a decoder layer's modules that could be the residual stream.

    Attributes:
        output_path: of the heads.
        entering: the layer's input, [B, E].
        behind: what modules behind the heads' path took in, [B, E] each.
        leaving: the layer's output, [B, E].
    """

    def __init__(self, model: PreTrainedModel, layer: int):
        self.path, self.block = path_modules(model, layer), model.get_submodule(observe(model)[layer].block)
        self.output_path = OutputPath(self.path)
        self.width = model.get_input_embeddings().weight.shape[-1]
        self.entering, self.leaving, self.behind = Tensor(), Tensor(), list[Tensor]()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep them inside the block."""
        within = [module for module in self.block.modules() if module is not self.block]
        hooks = [module.register_forward_pre_hook(self._keep_behind) for module in within]
        hooks.append(self.block.register_forward_pre_hook(self._keep_entering, with_kwargs=True))
        hooks.append(self.block.register_forward_hook(self._keep_leaving))
        with hooked(hooks):
            yield

    def _keep_entering(self, _: nn.Module, arguments: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        self.entering = entering(arguments, named)[:, -1].float()

    def _keep_behind(self, module: nn.Module, arguments: tuple[object, ...]) -> None:
        if module in self.path:
            self.behind = []
        elif arguments and isinstance(arguments[0], Tensor):
            state = arguments[0]
            if state.ndim == 3 and state.shape[-1] == self.width and len(state) == len(self.entering):
                self.behind.append(state[:, -1].float().clone())

    def _keep_leaving(self, _: nn.Module, arguments: tuple[object, ...], output: object) -> None:
        state = output[0] if isinstance(output, tuple) else output
        assert isinstance(state, Tensor)
        self.leaving = state[:, -1].float().clone()

    def fit(self, row: int, before: Tensor, change: Tensor) -> Fit:
        """Return how the residual stream moved in a row: a state that holds the layer's input too, or its output.

        A pruned head, whose change is zero, has no factor (NaN): nothing should move.
        """
        if not change.any():
            return Fit(float("nan"), float((self.leaving[row] - self.leaving[0]).norm() / self.leaving[0].norm()))
        fits = [_fit(self.leaving[row] - self.leaving[0], change)]
        for state in self.behind:
            fit = _fit(state[row] - state[0], change)
            rest = _fit(state[0] - fit.factor * before, self.entering[0])
            fits.append(Fit(fit.factor, max(fit.error, rest.error)))
        return min(fits, key=lambda fit: fit.error)


def _fit(moved: Tensor, along: Tensor) -> Fit:
    """Return the factor by which a vector [E] is most nearly another one."""
    factor = float(moved @ along / along.square().sum())
    error = float((moved - factor * along).norm() / moved.norm())
    return Fit(factor, error if error == error and factor > 0 else float("inf"))


def _fits(model: PreTrainedModel) -> list[Fit]:
    """Run one batch with a row for each changed head."""
    sizes = geometry(model.config)
    heads = torch.linspace(0, sizes.heads - 1, min(NUDGED, sizes.heads)).round().long().tolist()
    keys = [(layer, head) for layer in sizes.full_layers for head in heads]
    states = {layer: _States(model, layer) for layer in sizes.full_layers}
    nudge = _Nudge({key: row for row, key in enumerate(keys, start=1)}, states)
    with ExitStack() as stack:
        for of_layer in states.values():
            stack.enter_context(of_layer.kept())
        run(model, random_tokens(model, TOKENS, 2).repeat(1 + len(keys), 1), 0, nudge)
    return [states[layer].fit(row, nudge.before[layer], nudge.change[row]) for (layer, _), row in nudge.rows.items()]

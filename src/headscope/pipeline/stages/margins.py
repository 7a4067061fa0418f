"""Stage `margins`: margins of criteria with outliers or for the lost output, on the dense answers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from headscope.heads.window import Window
from headscope.lab import scope
from headscope.lab.margins import LayerMargins, margins
from headscope.models.loading import LoadedModel
from headscope.pipeline.progress import progress
from headscope.pipeline.stages.inputs import (
    Prompt,
    build_rows,
    criterion_identity,
    fed_tokens,
    load_answers,
    load_model,
    load_moments,
    load_probes,
    load_prompts,
    open_cells,
)
from headscope.pipeline.store.files import digest
from headscope.pipeline.store.layer_rows import writer
from headscope.pipeline.store.parents import Parents
from headscope.pipeline.store.tables import LISTS, MARGINS, PromptMargins

Arrays = dict[str, NDArray[Any]]


def run(spec: dict[str, Any], out: Path, parents: Parents) -> None:
    """Write margins.parquet."""
    loaded = load_model(spec, parents)
    recorded = _Recorded(spec, out, parents, loaded)
    answers = load_answers(parents)
    tables = None
    for prompt in progress(load_prompts(parents, loaded), f"margins {spec['task']} {spec['length']}"):
        fed = fed_tokens(answers[prompt.id])
        length = len(prompt.encoded.ids) + len(fed)
        positions = scope.recorded_positions(recorded.window, prompt.encoded.boundary, length, recorded.chunk)
        for name, cell in recorded.cells_of(prompt, fed).items():
            table = PromptMargins.of(prompt.id, prompt.row["split"], name, positions.int().numpy(), cell).table()
            tables = tables or writer(out / MARGINS, table.schema)
            tables.write_table(table)
    if tables:
        tables.close()


class _Recorded:
    """Finds the cells of a prompt or computes those that are missing, all in one forward pass."""

    def __init__(self, spec: Mapping[str, Any], out: Path, parents: Parents, loaded: LoadedModel):
        self.loaded, self.window, self.chunk = loaded, Window(**spec["window"]), spec.get("chunk")
        moments, self.probes = load_moments(parents), load_probes(parents)
        uncalibrated = [{"threshold": 0.0}]
        self.groups = {name: build_rows(each, uncalibrated, moments) for name, each in spec["criteria"].items()}
        self.cells = open_cells("margins", spec, loaded, out, "headscope.lab.margins")
        self.identities = {
            # The recorded loss has the heads' weights in it, which come with the probes even without outliers.
            name: {**criterion_identity(criterion, moments, self.probes), "weights": self.probes and self.probes.sha256}
            for name, criterion in spec["criteria"].items()
        }

    def cells_of(self, prompt: Prompt, fed: list[int]) -> dict[str, Arrays]:
        """Return the margins of every criterion on a prompt with its dense answer."""
        keys = {name: f"margin-{digest([fed, identity])}" for name, identity in self.identities.items()}
        cells = self.cells.arrays(prompt.id, keys.values())
        # Criteria that differ in what they do with a label alone have one key.
        missing = {key: self.groups[name] for name, key in keys.items() if key not in cells}
        if missing:
            probes, groups = self.probes.fitted if self.probes else None, list(missing.values())
            model, ids, boundary = self.loaded.model, prompt.encoded.ids, prompt.encoded.boundary
            layers = margins(model, [*ids, *fed], boundary, groups, self.window, probes, len(ids), self.chunk)
            for key, of_layers in zip(missing, layers, strict=True):
                cells[key] = _arrays(of_layers)
                self.cells.add_arrays(prompt.id, key, cells[key])
        return {name: cells[key] for name, key in keys.items()}


def _arrays(layers: Mapping[int, LayerMargins]) -> Arrays:
    """Stack the layers' margins, exact margins and losses, [L, H, Q], float32."""
    lists = {name: torch.stack([getattr(layer, name) for layer in layers.values()]) for name in LISTS}
    stacked = {name: values.float().cpu().numpy() for name, values in lists.items()}
    return {"layers": np.array(list(layers), dtype=np.int16), **stacked}

"""Stage `probes`: queries of calibration prompts and of their dense answers, and the heads' weights in the output."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from headscope.errors import ConfigError
from headscope.lab.probes import fit_probes
from headscope.pipeline.stages.inputs import load_answers, load_model, load_prompts
from headscope.pipeline.store.parents import Parents


def run(spec: dict[str, Any], out: Path, parents: Parents) -> None:
    """Write probes.safetensors: layers [L], queries turned to position 0 [L, H, P, D], weight [L, H].

    Raises:
        ConfigError: there is no calibration prompt.
    """
    loaded = load_model(spec, parents, probes=True)
    answers = load_answers(parents)
    prompts = [prompt for prompt in load_prompts(parents, loaded) if prompt.row["split"] == "calibration"]
    if not prompts:
        raise ConfigError(f"task {spec['task']} has no calibration prompt to take probes of; ask for one at least")
    answered = [
        ([*prompt.encoded.ids, *answers[prompt.id]["tokens"]], prompt.encoded.boundary)
        for prompt in prompts[: spec.get("prompts")]
    ]
    probes = fit_probes(loaded.model, answered, spec["count"])
    layers = list(probes.queries)
    tensors = {
        "layers": torch.tensor(layers),
        "queries": torch.stack([probes.queries[layer] for layer in layers]),
        "weight": torch.stack([probes.weight[layer] for layer in layers]),
    }
    save_file(tensors, out / "probes.safetensors")

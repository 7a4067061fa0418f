"""Key moments of a text other than the prompt, as long as the prompt is: keys are rotated by position."""

import json
import random
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from headscope.benchmarks.prose import sentences
from headscope.benchmarks.ruler.needles import word_list
from headscope.errors import ConfigError
from headscope.heads.moments import KeyMoments
from headscope.lab.prefill import prefill_densely
from headscope.models.attention import attention
from headscope.models.loading import LoadedModel, geometry
from headscope.pipeline.stages.inputs import load_model
from headscope.pipeline.store.parents import Parents


def run(spec: dict[str, Any], out: Path, parents: Parents) -> None:
    """Write moments.safetensors: layers [L], count [L], mean [L, K, D], covariance [L, K, D, D].

    Args:
        spec: text ("random_words" or "prose"), length in tokens, seed, sink (keys left out), dtype, device, device_map,
            rope.
        out: the node's empty folder.
        parents: the model's assets, and the prose's.
    """
    loaded = load_model(spec, parents)
    ids = TEXTS[spec["text"]](loaded, parents, spec["length"], spec["seed"])
    with torch.inference_mode(), attention(loaded.model):
        layers = prefill_densely(loaded.model, ids)
    full = geometry(loaded.model.config).full_layers
    found = [KeyMoments.of(layers[layer].keys[:, spec["sink"] :]) for layer in full]
    tensors = {
        "layers": torch.tensor(full),
        "count": torch.tensor([moments.count for moments in found]),
        "mean": torch.stack([moments.mean.cpu() for moments in found]),
        "covariance": torch.stack([moments.covariance.cpu() for moments in found]),
    }
    save_file(tensors, out / "moments.safetensors")


def random_words(loaded: LoadedModel, parents: Parents, length: int, seed: int) -> list[int]:
    """Token ids of a prompt of random words, exactly `length` of them."""
    pool = [*word_list("noun"), *word_list("adjective"), *word_list("verb")]
    return _ids(loaded, " ".join(random.Random(seed).choices(pool, k=length)), length)


def prose(loaded: LoadedModel, parents: Parents, length: int, seed: int) -> list[int]:
    """Token ids of the haystacks' prose from a random sentence on, exactly `length` of them.

    Raises:
        ConfigError: the prose is shorter.
    """
    folder = parents.one("assets", name="prose").folder
    path = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["path"]
    found = sentences((folder / path).read_text(encoding="utf-8"))
    start = random.Random(seed).randrange(len(found))
    ids = _ids(loaded, " ".join(found[start:] + found[:start]), length)
    if len(ids) < length:
        raise ConfigError(f"estimator.moments: the prose has {len(ids)} tokens, {length} are wanted; use random_words")
    return ids


def _ids(loaded: LoadedModel, text: str, length: int) -> list[int]:
    ids: list[int] = loaded.tokenizer(text, add_special_tokens=False)["input_ids"][:length]
    return ids


TEXTS = {"random_words": random_words, "prose": prose}

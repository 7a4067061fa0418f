"""Stage `moments`: key moments of a text other than the prompt, of the same length, since keys are rotated."""

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
from headscope.models.geometry import geometry
from headscope.models.loading import LoadedModel
from headscope.pipeline.stages.inputs import load_model
from headscope.pipeline.store.parents import Parents


def run(spec: dict[str, Any], out: Path, parents: Parents) -> None:
    """Write moments.safetensors: layers [L], count [L], mean [L, K, D], covariance [L, K, D, D]."""
    loaded = load_model(spec, parents)
    ids = TEXTS[spec["text"]](loaded, parents, spec["length"], spec["seed"])
    with torch.inference_mode(), attention(loaded.model):
        layers = prefill_densely(loaded.model, ids)
    full = geometry(loaded.model.config).full_layers
    moments = [KeyMoments.of(layers[layer].keys[:, spec["sink"] :]) for layer in full]
    tensors = {
        "layers": torch.tensor(full),
        "count": torch.tensor([of_layer.count for of_layer in moments]),
        "mean": torch.stack([of_layer.mean.cpu() for of_layer in moments]),
        "covariance": torch.stack([of_layer.covariance.cpu() for of_layer in moments]),
    }
    save_file(tensors, out / "moments.safetensors")


def random_words(loaded: LoadedModel, parents: Parents, length: int, seed: int) -> list[int]:
    """Return the first `length` token ids of random words."""
    pool = [*word_list("noun"), *word_list("adjective"), *word_list("verb")]
    return _ids(loaded, " ".join(random.Random(seed).choices(pool, k=length)), length)


def prose(loaded: LoadedModel, parents: Parents, length: int, seed: int) -> list[int]:
    """Return the first `length` token ids of the haystacks' prose from a random sentence on.

    Raises:
        ConfigError: the prose is shorter.
    """
    folder = parents.one("assets", name="prose").folder
    path = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["path"]
    text = sentences((folder / path).read_text(encoding="utf-8"))
    start = random.Random(seed).randrange(len(text))
    ids = _ids(loaded, " ".join(text[start:] + text[:start]), length)
    if len(ids) < length:
        raise ConfigError(f"estimator.moments: the prose has {len(ids)} tokens, {length} are wanted; use random_words")
    return ids


def _ids(loaded: LoadedModel, text: str, length: int) -> list[int]:
    ids: list[int] = loaded.tokenizer(text, add_special_tokens=False)["input_ids"][:length]
    return ids


TEXTS = {"random_words": random_words, "prose": prose}

"""Key moments of a text other than the prompt: random words of the prompt's length, keys being rotated by position."""

import random
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from headscope.benchmarks.ruler.needles import word_list
from headscope.heads.moments import KeyMoments
from headscope.models.attention import attention
from headscope.models.loading import LoadedModel, geometry
from headscope.models.prefill import prefill
from headscope.pipeline.inputs import load_model
from headscope.pipeline.parents import Parents


def run(spec: dict[str, Any], out: Path, parents: Parents) -> None:
    """Write moments.safetensors: layers [L], count [L], mean [L, K, D], covariance [L, K, D, D].

    Args:
        spec: text ("random_words"), length in tokens, seed, sink (keys left out), dtype, device, device_map, rope.
        out: the node's empty folder.
        parents: the model's assets.
    """
    loaded = load_model(spec, parents)
    with torch.inference_mode(), attention(loaded.model):
        layers = prefill(loaded.model, random_words(loaded, spec["length"], spec["seed"]))
    full = geometry(loaded.model.config).full_layers
    found = [KeyMoments.of(layers[layer].keys[:, spec["sink"] :]) for layer in full]
    tensors = {
        "layers": torch.tensor(full),
        "count": torch.tensor([moments.count for moments in found]),
        "mean": torch.stack([moments.mean.cpu() for moments in found]),
        "covariance": torch.stack([moments.covariance.cpu() for moments in found]),
    }
    save_file(tensors, out / "moments.safetensors")


def random_words(loaded: LoadedModel, length: int, seed: int) -> list[int]:
    """Token ids of a prompt of random words, exactly `length` of them."""
    pool = [*word_list("noun"), *word_list("adjective"), *word_list("verb")]
    words = random.Random(seed).choices(pool, k=length)
    ids: list[int] = loaded.tokenizer(" ".join(words), add_special_tokens=False)["input_ids"][:length]
    return ids

"""Tiny random models of every supported family: they test mechanics, not science."""

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

VOCABULARY = 97
EOS = 2
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": EOS,
}
WIDE = {**SHAPE, "head_dim": 8}
CONFIGS = {
    "llama": lambda: LlamaConfig(**WIDE),
    "llama_mha": lambda: LlamaConfig(**{**WIDE, "num_key_value_heads": 4}),
    "mistral": lambda: MistralConfig(**WIDE, sliding_window=None),
    "mistral_sliding": lambda: MistralConfig(**WIDE, sliding_window=12),
    "qwen2": lambda: Qwen2Config(**WIDE),
    "qwen3": lambda: Qwen3Config(**WIDE),
    "gemma3": lambda: Gemma3TextConfig(
        **WIDE, sliding_window=12, layer_types=["sliding_attention", "full_attention", "sliding_attention"]
    ),
    "phi3": lambda: Phi3Config(**SHAPE, sliding_window=None),
}


def tiny_model(family: str, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """A random model with weights large enough that heads differ and greedy answers do not loop at once."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[family]()).to(dtype).eval()
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.3)
    return model


def random_ids(length: int, seed: int = 0) -> list[int]:
    """Token ids without special tokens."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()

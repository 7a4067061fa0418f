"""Tiny random models of many families, built from transformers' own configs: which are served, and which refused.

Gains of norms are drawn too, for a family may be wrong in them alone.
"""

from typing import Any

import torch
from tiny_models import WIDE
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedModel

EXPERTS = {
    "num_experts_per_tok": 2,
    "num_local_experts": 4,
    "num_experts": 4,
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
}
MHA = {"num_key_value_heads": 4}
MIXED = {"sliding_window": 12, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
NEVER_SLIDES = {"sliding_window": 1024}
LATENT = {"head_dim": None, "kv_lora_rank": 8, "q_lora_rank": None, "first_k_dense_replace": 1, **MHA}
LATENT |= {"qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 8}


def rope(kind: str, **more: Any) -> dict[str, Any]:
    """A config's RoPE parameters."""
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4, "factor": 4.0, **more}}


STRETCHED = {"original_max_position_embeddings": 128}
CHANGE = {"original_max_position_embeddings": 64}
LONG = {**rope("longrope", short_factor=[1.0] * 4, long_factor=[3.0] * 4, **CHANGE), **CHANGE}

PLAIN = [
    "apertus",
    "arcee",
    "cohere",
    "cwm",
    "ernie4_5",
    "exaone4",
    "gemma",
    "gemma3_text",
    "glm",
    "glm4",
    "granite",
    "helium",
    "jais2",
    "llama",
    "mistral",
    "ministral3",
    "olmo",
    "olmo2",
    "olmo3",
    "phi",
    "phi3",
    "qwen2",
    "qwen3",
    "seed_oss",
    "smollm3",
    "starcoder2",
    "bitnet",
    "hyperclovax",
    "nanochat",
    "cohere2",
    "aria_text",
    "ernie4_5_moe",
    "exaone_moe",
    "flex_olmo",
    "glm4_moe",
    "granitemoe",
    "granitemoeshared",
    "hy_v3",
    "minimax_m2",
    "mixtral",
    "olmoe",
    "phimoe",
    "qwen2_moe",
    "qwen3_moe",
    "solar_open",
]
SERVED: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in PLAIN},
    "persimmon": ("persimmon", MHA),
    "gpt_neox": ("gpt_neox", MHA),
    "llama, yarn": ("llama", rope("yarn", **STRETCHED)),
    "llama, llama3": ("llama", rope("llama3", low_freq_factor=1.0, high_freq_factor=4.0, **STRETCHED)),
    "llama, dynamic": ("llama", rope("dynamic")),
    "phi3, longrope": ("phi3", LONG),
    "phi3, a window beyond its positions": ("phi3", NEVER_SLIDES),
    "mistral, a window beyond its positions": ("mistral", NEVER_SLIDES),
    "gemma3, mostly sliding": ("gemma3_text", MIXED),
    "cohere2, RoPE in sliding layers alone": ("cohere2", MIXED),
    "exaone4, RoPE in sliding layers alone": ("exaone4", MIXED),
    "smollm3, a layer without RoPE": ("smollm3", {"no_rope_layers": [1, 0, 1]}),
    "granite, multipliers": ("granite", {"residual_multiplier": 0.22, "attention_multiplier": 0.1}),
}
TURNED, WEIGHED = "cannot be turned to another position", "how much a head counts .* is not known"
WITHOUT_PROBES: dict[str, tuple[str, dict[str, Any], str]] = {
    "gpt2, learned positions": ("gpt2", MHA, TURNED),
    "opt, learned positions": ("opt", MHA, TURNED),
    "biogpt, learned positions": ("biogpt", MHA, TURNED),
    "gpt_bigcode, learned positions": ("gpt_bigcode", {"num_key_value_heads": 1}, TURNED),
    "hunyuan, a norm behind RoPE": ("hunyuan_v1_dense", {}, TURNED),
    "beam, queries scaled by position": ("beam", {}, TURNED),
    "ministral3, queries scaled by position": (
        "ministral3",
        rope("yarn", llama_4_scaling_beta=0.5, **STRETCHED),
        TURNED,
    ),
    "afmoe, gated heads": ("afmoe", {}, WEIGHED),
    "laguna, gated heads": ("laguna", {}, WEIGHED),
}
CALLS = "layer 0 calls the registered attention function "
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "gemma2": ("gemma2", {}, "attn_logit_softcapping=50.0"),
    "gpt_oss": ("gpt_oss", {}, "learned attention sinks"),
    "mistral, sliding": ("mistral", {"sliding_window": 12}, "every layer slides"),
    "bloom": ("bloom", {}, CALLS + "never"),
    "mpt": ("mpt", {}, CALLS + "never|no attention heads over a bounded number"),
    "nemotron": ("nemotron", MHA, CALLS + "never"),
    "stablelm": ("stablelm", MHA, CALLS + "never"),
    "codegen": ("codegen", {**MHA, "head_dim": None, "rotary_dim": 4}, CALLS + "never"),
    "gptj": ("gptj", {**MHA, "head_dim": None, "rotary_dim": 4}, CALLS + "never"),
    "falcon": ("falcon", {"head_dim": None}, CALLS + "never"),
    "xglm": ("xglm", {}, CALLS + "never"),
    "diffllama": ("diffllama", {}, CALLS + "2 times"),
    "doge": ("doge", {}, "asks its attention for attention_mask"),
    "jetmoe": ("jetmoe", MHA, "attends with a query of"),
    "bart": ("bart", {}, "attends with a query of"),
    "deepseek_v3": ("deepseek_v3", LATENT, r"its config says \(1, 4, 8, 4\)"),
    "deepseek_v2": ("deepseek_v2", LATENT, r"its config says \(1, 4, 8, 4\)"),
    "minicpm3": ("minicpm3", LATENT, r"its config says \(1, 4, 8, 4\)"),
    "gemma4": ("gemma4_unified_text", {}, "head_dim differs from layer to layer"),
    "dots3_note": ("dots3_note_text", MHA, "num_attention_heads differs from layer to layer"),
    "llama4": ("llama4_text", {}, "layers of kind chunked_attention"),
    "jamba": ("jamba", {}, "layers of kind linear_attention"),
    "mamba": ("mamba", {}, "layers of kind linear_attention|no attention heads"),
    "rwkv": ("rwkv", {}, CALLS + "never|no attention heads"),
    "qwen3_next": ("qwen3_next", {}, "layers of kind linear_attention"),
    "roberta, positions that start at 2": ("roberta", MHA, "logits differ from .*positions from 0 on"),
    "modernbert-decoder": ("modernbert-decoder", MHA, "does not run with a DynamicCache"),
}


def known(model_type: str) -> bool:
    """Whether this version of transformers has the family."""
    return model_type in CONFIG_MAPPING


def family_model(model_type: str, more: dict[str, Any]) -> PreTrainedModel:
    """A float32 model with weights large enough that heads differ; None drops an option."""
    options = {name: value for name, value in {**WIDE, **EXPERTS, **more}.items() if value is not None}
    if "q_lora_rank" in more:
        options["q_lora_rank"] = None
    config = AutoConfig.for_model(model_type, **options)
    if getattr(config, "is_decoder", None) is False:
        config.is_decoder = True
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.3)
            else:
                weight += 0.3 * torch.randn_like(weight)
    return model

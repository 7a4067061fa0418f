"""The dense model's own greedy answers, by transformers' `generate`."""

from collections.abc import Sequence

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


def stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str = "") -> list[int]:
    """Token ids that end an answer: the generation configuration's, the tokenizer's, and the last one of `text`."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    asked = tokenizer.encode(text, add_special_tokens=False)[-1:]
    return sorted({token for token in [*ids, tokenizer.eos_token_id, *asked] if token is not None})


@torch.inference_mode()
def greedy_answer(
    model: PreTrainedModel, ids: Sequence[int], max_new_tokens: int, eos: Sequence[int], min_new_tokens: int = 0
) -> tuple[list[int], str]:
    """Generate from one prompt; returns the tokens without the stop token, and "eos" or "length".

    The first `min_new_tokens` are never stop tokens.
    A fresh generation configuration is used: chat models ship sampling and penalties that RULER's protocol excludes.
    """
    tokens = torch.tensor([ids], device=model.get_input_embeddings().weight.device)
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens or None,
        eos_token_id=list(eos) or None,
        pad_token_id=eos[0] if eos else 0,
    )
    output = model.generate(tokens, attention_mask=torch.ones_like(tokens), generation_config=config)
    answer = output[0, len(ids) :].tolist()
    if answer and answer[-1] in eos:
        return answer[:-1], "eos"
    return answer, "length"

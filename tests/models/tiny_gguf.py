"""A GGUF file of a tiny Llama, 4-bit blocks as in the packaged SmolLM2, with tokenizer and chat template."""

from pathlib import Path

import gguf
import numpy as np
from gguf import TokenType
from tokenizers.pre_tokenizers import ByteLevel

LAYERS, HEADS, KV_HEADS, HEAD_DIM, HIDDEN, INNER, POSITIONS = 2, 4, 2, 16, 64, 96, 256
EXPECTED = {"layers": LAYERS, "heads": HEADS, "kv_heads": KV_HEADS, "head_dim": HEAD_DIM, "positions": POSITIONS}
CHAT_TEMPLATE = "{% for message in messages %}{{ '<s>' + message['content'] + '</s>' }}{% endfor %}"
BYTES = list(ByteLevel.alphabet())
MERGES = ["t h", "th e", "Ġ q", "u i", "c k", "o w", "ow n", "1 2", "12 3", "4 5"]
SPECIAL = ["<unk>", "<s>", "</s>"]
BY_MERGES = [*SPECIAL, *sorted(BYTES), *(merge.replace(" ", "") for merge in MERGES)]
# As in Gemma's file a score says when a token is joined, and is no log probability: "own" is, in spite of its own.
SCORES = {"th": -1.0, "the": -2.0, "▁q": -3.0, "ui": -4.0, "ck": -5.0, "ow": -6.0, "own": -900.0}
SCORES |= {character: -100.0 - rank for rank, character in enumerate(["▁", *map(chr, range(33, 127))])}
BY_SCORES = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *SCORES]


def write_tiny_gguf(path: Path, kind: str = "gpt2", pre: str = "gpt-2") -> None:
    """Write the file with a tokenizer of merges (gpt2) or scores (llama); its weights are always the same."""
    writer = gguf.GGUFWriter(path, "llama")
    tokens = BY_MERGES if kind == "gpt2" else BY_SCORES
    writer.add_context_length(POSITIONS)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model(kind)
    writer.add_token_list(tokens)
    if kind == "gpt2":
        writer.add_tokenizer_pre(pre)
        writer.add_token_types([TokenType.CONTROL] * 3 + [TokenType.NORMAL] * (len(tokens) - 3))
        writer.add_token_merges(MERGES)
    else:
        kinds = [TokenType.CONTROL] * 3 + [TokenType.BYTE] * 256 + [TokenType.NORMAL] * len(SCORES)
        writer.add_token_types(kinds)
        writer.add_token_scores([0.0] * (len(tokens) - len(SCORES)) + list(SCORES.values()))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(kind == "llama")
    writer.add_chat_template(CHAT_TEMPLATE)
    _add_weights(writer, len(tokens))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_weights(writer: gguf.GGUFWriter, vocabulary: int) -> None:
    random = np.random.default_rng(0)

    def quantised(name: str, *shape: int) -> None:
        weight = random.normal(0, 0.2, shape).astype(np.float32)
        kind = gguf.GGMLQuantizationType.Q4_1
        writer.add_tensor(name, gguf.quants.quantize(weight, kind), raw_dtype=kind)

    quantised("token_embd.weight", vocabulary, HIDDEN)
    writer.add_tensor("output_norm.weight", np.ones(HIDDEN, np.float32))
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        writer.add_tensor(f"{block}.attn_norm.weight", np.ones(HIDDEN, np.float32))
        writer.add_tensor(f"{block}.ffn_norm.weight", np.ones(HIDDEN, np.float32))
        quantised(f"{block}.attn_q.weight", HEADS * HEAD_DIM, HIDDEN)
        quantised(f"{block}.attn_k.weight", KV_HEADS * HEAD_DIM, HIDDEN)
        quantised(f"{block}.attn_v.weight", KV_HEADS * HEAD_DIM, HIDDEN)
        quantised(f"{block}.attn_output.weight", HIDDEN, HEADS * HEAD_DIM)
        quantised(f"{block}.ffn_gate.weight", INNER, HIDDEN)
        quantised(f"{block}.ffn_up.weight", INNER, HIDDEN)
        quantised(f"{block}.ffn_down.weight", HIDDEN, INNER)

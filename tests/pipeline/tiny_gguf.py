"""A GGUF file of a tiny Llama, 4-bit blocks as in the packaged SmolLM2, with tokenizer and chat template."""

from pathlib import Path

import gguf
import numpy as np

LAYERS, HEADS, KV_HEADS, HEAD_DIM, HIDDEN, INNER, POSITIONS = 2, 4, 2, 16, 64, 96, 256
EXPECTED = {"layers": LAYERS, "heads": HEADS, "kv_heads": KV_HEADS, "head_dim": HEAD_DIM, "positions": POSITIONS}
CHAT_TEMPLATE = "{% for message in messages %}{{ '<s>' + message['content'] + '</s>' }}{% endfor %}"
ALPHABET = [chr(code) for code in range(33, 127)] + ["Ġ", "Ċ"]
TOKENS = ["<unk>", "<s>", "</s>", *ALPHABET, "th", "the"]


def write_tiny_gguf(path: Path) -> None:
    """Write the file; its weights are always the same."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(POSITIONS)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(TOKENS))
    _add_tokenizer(writer)
    _add_weights(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(TOKENS) - 3))
    writer.add_token_merges(["t h", "th e"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(CHAT_TEMPLATE)


def _add_weights(writer: gguf.GGUFWriter) -> None:
    random = np.random.default_rng(0)

    def quantised(name: str, *shape: int) -> None:
        weight = random.normal(0, 0.2, shape).astype(np.float32)
        kind = gguf.GGMLQuantizationType.Q4_1
        writer.add_tensor(name, gguf.quants.quantize(weight, kind), raw_dtype=kind)

    quantised("token_embd.weight", len(TOKENS), HIDDEN)
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

"""A GGUF file whose header promises more than the file holds is refused at once, not read into memory."""

import struct
from pathlib import Path

import pytest
from tiny_gguf import write_tiny_gguf

from headscope.errors import AssetError
from headscope.models.gguf import convert, read_fields

LARGE = 2**40


def with_number(path: Path, name: str, behind: int, number: int, form: str = "<Q") -> None:
    """Write a number over the file, so many bytes behind a field's name; no name: behind the start of the file."""
    data = bytearray(path.read_bytes())
    at = data.index(name.encode()) + len(name) + behind if name else behind
    struct.pack_into(form, data, at, number)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "behind", "number"),
    [
        ("", 8, LARGE),  # tensors
        ("", 16, LARGE),  # fields
        ("", 24, LARGE),  # the first name
        ("tokenizer.ggml.tokens", 8, LARGE),  # texts of a list
        ("tokenizer.ggml.token_type", 4, 2**30 << 32),  # bytes of a list
        ("tokenizer.ggml.token_type", 4, 9),  # lists of a list
        ("tokenizer.chat_template", 4, LARGE),
        ("blk.0.attn_q.weight", 0, 2**31),  # sizes of a tensor
    ],
)
def test_a_length_beyond_the_end_is_refused_before_lists_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, behind: int, number: int
) -> None:
    path = tmp_path / "tiny.gguf"
    write_tiny_gguf(path)
    read_fields(path)
    with_number(path, name, behind, number)
    monkeypatch.setattr("gguf.GGUFReader", lambda file: pytest.fail("lists of the header's lengths are made"))
    with pytest.raises(AssetError, match=r"tiny.gguf is truncated or no GGUF file; download it again"):
        read_fields(path)


@pytest.mark.parametrize(
    ("name", "message"), [("llama.vocab_size", "vocab_size is|numbers, its"), ("llama.block_count", "layers")]
)
def test_a_field_that_makes_a_much_larger_model_is_refused_before_it_is_made(
    tmp_path: Path, name: str, message: str
) -> None:
    path = tmp_path / "tiny.gguf"
    write_tiny_gguf(path)
    with_number(path, name, 4, 2**24 if "vocab" in name else 2000, "<I")
    with pytest.raises(AssetError, match=message):
        convert(path, tmp_path / "out")

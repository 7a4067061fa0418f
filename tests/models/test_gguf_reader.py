"""Our reader of GGUF files gives what gguf's own gives."""

from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from tiny_gguf import write_tiny_gguf

from headscope.models import gguf_reader
from headscope.models.gguf_reader import fast_reader


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_fields_and_tensors_are_those_of_ggufs_reader(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "tiny.gguf"
    write_tiny_gguf(path, kind)
    own = gguf.GGUFReader(path)
    with fast_reader():
        ours = gguf.GGUFReader(path)
    assert type(ours) is not type(own)
    assert list(ours.fields) == list(own.fields)
    for name, field in own.fields.items():
        assert ours.fields[name].contents() == field.contents()
        assert ours.fields[name].types == field.types
        assert len(ours.fields[name].data) == len(field.data)
    for tensor, expected in zip(ours.tensors, own.tensors, strict=True):
        assert (tensor.name, tensor.tensor_type) == (expected.name, expected.tensor_type)
        assert np.array_equal(tensor.data, expected.data)


def test_a_file_is_parsed_once_inside_the_block_and_by_gguf_behind_it(tmp_path: Path) -> None:
    path, before = tmp_path / "tiny.gguf", (gguf.GGUFReader, gguf.dequantize, gguf.get_tensor_name_map)
    write_tiny_gguf(path)
    with fast_reader():
        assert gguf.GGUFReader(path) is gguf.GGUFReader(str(path))
    assert (gguf.GGUFReader, gguf.dequantize, gguf.get_tensor_name_map) == before


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "Q4_1", "Q5_0", "Q8_0", "Q4_K", "Q6_K"])
def test_weights_are_unpacked_bit_for_bit(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    kind = GGMLQuantizationType[name]
    numbers, size = gguf.GGML_QUANT_SIZES[kind]
    # Whole rows, and pieces that end within a row and before the last block.
    monkeypatch.setattr(gguf_reader, "PIECE", 4 * numbers)
    packed = np.random.default_rng(0).integers(0, 60, (5, 3 * size), dtype=np.uint8)
    packed = packed.view({"F32": np.float32, "F16": np.float16}.get(name, np.uint8))
    expected = gguf.dequantize(packed, kind)
    with fast_reader():
        weights = gguf.dequantize(packed, kind)
    assert weights.dtype == expected.dtype
    assert weights.shape == expected.shape
    assert np.array_equal(weights, expected)
    assert len(np.unique(weights)) > 2

"""A tokenizer that comes out otherwise than the GGUF file says is refused, by what differs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from packaging.version import Version
from tiny_gguf import SCORES, write_tiny_gguf
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from headscope.errors import AssetError
from headscope.models.gguf import convert, read_fields
from headscope.models.gguf_tokenizer import check_tokenizer, set_special_tokens

OLD = Version(transformers.__version__) < Version("5.23")


def read(folder: Path, kind: str, **options: str) -> tuple[Any, dict[str, Any], Path]:
    """Write a tiny GGUF file; return transformers' tokenizer, the file's fields and the file."""
    if kind == "llama" and OLD:
        pytest.skip("versions before 5.23 leave out the start token, and are refused for it")
    file = folder / "tiny.gguf"
    write_tiny_gguf(file, kind, **options)
    return AutoTokenizer.from_pretrained(folder, gguf_file=file.name), read_fields(file), file


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_files_own_tokenizer_passes(tmp_path: Path, kind: str) -> None:
    check_tokenizer(*read(tmp_path, kind))


def swap(backend: dict[str, Any]) -> None:
    vocabulary = backend["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]


def as_unigram(backend: dict[str, Any]) -> None:
    """Take scores for log probabilities, as transformers 5.17 does with Gemma's file."""
    ids = sorted(backend["model"]["vocab"], key=backend["model"]["vocab"].get)
    vocabulary = [[token, SCORES.get(token, 0.0)] for token in ids]
    backend["model"] = {"type": "Unigram", "unk_id": 0, "vocab": vocabulary, "byte_fallback": True}


def add_start(backend: dict[str, Any]) -> None:
    start, text = {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    backend["post_processor"] |= {
        "single": [start, text],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }


TAMPERED: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "token 67 is 'b' instead of 'a'": ("gpt2", swap),
    "texts begin with the start token '<s>'": ("gpt2", add_start),
    "the special token '</s>' is cut into": (
        "gpt2",
        lambda backend: backend.update(added_tokens=[t for t in backend["added_tokens"] if t["content"] != "</s>"]),
    ),
    r"cut into \['Ġ', 'q', 'ui', 'ck'\] instead of \['Ġq', 'ui', 'ck', 'Ġ'\] from piece 3 on": (
        "gpt2",
        lambda backend: backend["model"]["merges"].remove(["Ġ", "q"]),
    ),
    r"is cut into \['ow', 'n', .* instead of \['own', ": ("llama", as_unigram),
    "comes back as": ("gpt2", lambda backend: backend.update(normalizer={"type": "NFD"})),
}


@pytest.mark.parametrize("message", TAMPERED)
def test_a_tokenizer_that_differs_is_refused_by_what_differs(tmp_path: Path, message: str) -> None:
    kind, tamper = TAMPERED[message]
    tokenizer, fields, file = read(tmp_path, kind)
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    tamper(backend)
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(backend))
    with pytest.raises(AssetError, match=rf"another tokenizer of \S*tiny\.gguf than the file says: .*{message}"):
        check_tokenizer(tokenizer, fields, file)


def test_another_chat_template_is_refused(tmp_path: Path) -> None:
    tokenizer, fields, file = read(tmp_path, "gpt2")
    tokenizer.chat_template += "!"
    with pytest.raises(AssetError, match="its chat template is another"):
        check_tokenizer(tokenizer, fields, file)


def test_numbers_that_the_file_cuts_into_digits_may_not_be_joined(tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "tiny.gguf", pre="smollm")  # transformers knows no rule of that name
    with pytest.raises(AssetError, match=r"'1234567' is cut into \['123', '45', '6', '7'\] instead of \['1', '2'"):
        convert(tmp_path / "tiny.gguf", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_special_tokens_are_the_files(tmp_path: Path) -> None:
    tokenizer, fields, _ = read(tmp_path, "gpt2")
    tokenizer.eos_token = "<s>"  # what transformers 5.17 guesses for SmolLM2's file
    set_special_tokens(tokenizer, fields)
    assert (tokenizer.eos_token, tokenizer.bos_token, tokenizer.unk_token) == ("</s>", "<s>", "<unk>")


def test_a_kind_of_tokenizer_that_is_not_implemented_is_refused(tmp_path: Path) -> None:
    tokenizer, fields, file = read(tmp_path, "gpt2")
    with pytest.raises(AssetError, match="kind t5, only llama and gpt2"):
        check_tokenizer(tokenizer, {**fields, "tokenizer.ggml.model": "t5"}, file)


def test_a_file_that_adds_a_start_token_but_names_none_is_no_error(tmp_path: Path) -> None:
    tokenizer, fields, file = read(tmp_path, "gpt2")
    fields |= {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": None}
    check_tokenizer(tokenizer, fields, file)


def test_a_file_without_merges_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, fields, file = read(tmp_path, "gpt2")
    del fields["tokenizer.ggml.merges"]
    monkeypatch.setattr("headscope.models.gguf.read_fields", lambda gguf: fields)
    with pytest.raises(AssetError, match=r"tiny.gguf cannot be converted: .*; choose another file"):
        convert(file, tmp_path / "out")

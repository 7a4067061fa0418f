"""Model folders with a wrong value in a JSON file, a damaged or strange file, or weights of another kind."""

import contextlib
import io
import json
import os
import struct
import sys
import tempfile
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from fuzzing import Kind
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from headscope.models.check import check_masses
from headscope.models.folder import read_config, read_tokenizer, refuse_unembedded
from headscope.models.generation import stop_tokens
from headscope.models.loading import load_folder
from headscope.models.weights import check_tensors
from headscope.pipeline.assets.model import fetch

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_folder import SIZES, TEXTS

from headscope.models.tiny import tiny_llama, tiny_tokenizer

CONFIG, INDEX, WEIGHTS = "config.json", "model.safetensors.index.json", "model.safetensors"
JSON_FILES = (CONFIG, "generation_config.json", "tokenizer.json", "tokenizer_config.json", INDEX)


@cache
def base(sharded: bool) -> dict[str, bytes]:
    """Return the files of a right folder by name, with weights in one file or in parts."""
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stderr(io.StringIO()):
        folder = Path(name)
        tiny_llama(**SIZES).save_pretrained(folder, max_shard_size="30KB" if sharded else "1GB")
        tiny_tokenizer(TEXTS, SIZES["vocab"]).save_pretrained(folder)
        return {file.name: file.read_bytes() for file in folder.iterdir()}


ROPE = (
    *(
        {},
        {"rope_type": "default"},
        {"rope_theta": 0},
        {"rope_theta": -1.0},
        {"rope_theta": "x"},
        {"rope_theta": 1e400},
    ),
    *({"rope_type": "longrope"}, {"rope_type": "longrope", "factor": 4.0, "short_factor": [1.0], "long_factor": [1.0]}),
    {"rope_type": "longrope", "factor": 4.0, "short_factor": [1.0] * 4, "long_factor": [1.0] * 4},
    {"rope_type": "longrope", "factor": 4.0, "short_factor": ["a"] * 4, "long_factor": [1.0] * 4},
    {"rope_type": "longrope", "factor": 4.0, "short_factor": 3, "long_factor": None},
    {"rope_type": "longrope", "factor": 4.0, "short_factor": [0.0] * 4, "long_factor": [float("nan")] * 4},
    *({"rope_type": "linear"}, {"rope_type": "linear", "factor": 0}, {"rope_type": "linear", "factor": "2"}),
    *(
        {"rope_type": "linear", "factor": 2.0},
        {"rope_type": "yarn", "factor": -1.0},
        {"rope_type": "yarn", "factor": 2.0},
    ),
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0},
    {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": "64"},
    *({"rope_type": "dynamic", "factor": 2.0}, {"type": "magic"}, {"rope_type": None}, {"rope_type": ["yarn"]}, []),
    {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.01},
    {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}},
)
NUMBERS = (0, -1, 1, 2, 3, 7, 2**31, 2**63, 10**30, 1.5, 0.0, -0.5, 1e-6, 1e300, float("nan"), float("inf"))
ODD = st.sampled_from(
    (None, True, False, "", "x", "8", "silu", "cpu", [], [1], ["full_attention"], {}, {"a": 1}, *NUMBERS)
)
KEYS = (
    *("rms_norm_eps", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim"),
    *("num_key_value_heads", "max_position_embeddings", "vocab_size", "model_type", "architectures", "hidden_act"),
    *("tie_word_embeddings", "attention_bias", "mlp_bias", "attention_dropout", "bos_token_id", "eos_token_id"),
    *("pad_token_id", "dtype", "torch_dtype", "initializer_range", "use_cache", "pretraining_tp", "rope_theta"),
    *("sliding_window", "layer_types", "auto_map", "quantization_config", "text_config", "is_encoder_decoder"),
    *("is_decoder", "attn_logit_softcapping", "num_labels", "id2label", "label2id", "return_dict", "output_attentions"),
    *("output_hidden_states", "problem_type", "chunk_size_feed_forward", "tie_encoder_decoder", "name_or_path"),
    *("transformers_version", "_attn_implementation", "attn_implementation", "base_model_tp_plan", "torchscript"),
    *("use_sliding_window", "max_window_layers", "logits_to_keep", "attention_chunk_size", "partial_rotary_factor"),
)
CONFIG_CHANGES = st.one_of(
    st.tuples(st.sampled_from(KEYS), ODD),
    st.tuples(st.just("rope_parameters"), ODD | st.sampled_from(ROPE)),
    st.tuples(st.just("rope_scaling"), ODD | st.sampled_from(ROPE)),
    st.tuples(
        st.just("model_type"), st.sampled_from(("llama ", "mistral", "qwen2", "gemma3", "bert", "t5", "gpt2", "mamba"))
    ),
    st.tuples(st.just("quantization_config"), st.sampled_from(({"quant_method": "awq"}, [1], 0, "x"))),
    st.tuples(st.just("auto_map"), st.sampled_from(({"AutoConfig": "x.Y"}, "x", []))),
    st.tuples(st.just("text_config"), st.sampled_from(({"model_type": "llama"}, {"hidden_size": 16}))),
)
DAMAGES = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "without its end": lambda data: data[:-3],
    "zeros": lambda data: bytes(len(data)),
    "bom": lambda data: b"\xef\xbb\xbf" + data,
    "utf-16": lambda data: data.decode("latin-1").encode("utf-16"),
    "latin-1": lambda data: data.replace(b'"', b'"\xe9', 1),
    "a list": lambda data: b"[1]",
    "null": lambda data: b"null",
    "a number": lambda data: b"7",
    "a text": lambda data: b'"text"',
    "an object": lambda data: b"{}",
    "deep": lambda data: b"[" * 5000,
    "html": lambda data: b"<!DOCTYPE html>\n<html>\nSorry</html>",
    "an LFS pointer": lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12\n",
}
SWAPS = ("missing", "a folder", "a dangling link", "a link to itself", "a link to a folder")


class Folder(NamedTuple):
    """A model folder.

    Attributes:
        sharded: whether the weights are in parts.
        kind: of change.
        change: its details.
    """

    sharded: bool
    kind: str
    change: Any


def leaves(content: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of the values inside a JSON value, the first items of lists alone."""
    keys = (
        list(content)[:12]
        if isinstance(content, dict)
        else range(min(2, len(content)))
        if isinstance(content, list)
        else ()
    )
    return [above, *(place for key in keys for place in leaves(content[key], (*above, key)))]


@st.composite
def json_changes(draw: st.DrawFn, files: dict[str, bytes]) -> tuple[str, list[Any], Any, bool]:
    """Choose a value anywhere in a JSON file, and another one."""
    name = draw(st.sampled_from([name for name in JSON_FILES if name in files]))
    place = draw(st.sampled_from(leaves(json.loads(files[name]))[1:]))
    return name, list(place), draw(ODD), draw(st.integers(0, 4)) == 0


HEADERS = (
    *(
        "dtype F64",
        "dtype I64",
        "dtype BF16",
        "dtype F8_E4M3",
        "dtype X9",
        "dtype null",
        "shape text",
        "shape negative",
    ),
    *("shape huge", "shape swapped", "shape empty", "offsets overlap", "offsets beyond", "offsets backwards"),
    *("offsets text", "name twice", "name missing", "name more", "metadata number", "header huge", "header short"),
    *("header list", "header no json", "header not utf-8", "rest more", "rest less", "rest none", "weights nan"),
    *("weights half", "weights inf", "weights zero", "weights int8", "weights transposed", "weights one less"),
)
INDEXES = (
    *({}, None, [], "x", {"lm_head.weight": 3}, {"lm_head.weight": None}, {"lm_head.weight": "none.safetensors"}),
    *({"lm_head.weight": "../model.safetensors"}, {"lm_head.weight": "/etc/passwd"}, {"lm_head.weight": ""}),
    *({"lm_head.weight": "."}, {"lm_head.weight": ["model.safetensors"]}, {"lm_head.weight": "a\nb.safetensors"}),
    *({"lm_head.weight": "config.json"}, {"other": "model-00001-of-00003.safetensors"}, {"lm_head.weight": "a/b"}),
)


@st.composite
def folders(draw: st.DrawFn) -> Folder:
    """Change one thing of a right folder, or two values of its config."""
    sharded = draw(st.booleans())
    files = base(sharded)
    kind = draw(st.sampled_from(("config", "config", "json", "bytes", "swap", "header", "index", "tokens", "extra")))
    change: Any = None
    if kind == "config":
        change = (
            draw(st.lists(CONFIG_CHANGES, min_size=1, max_size=2)),
            draw(st.sets(st.sampled_from(KEYS), max_size=1)),
        )
    elif kind == "json":
        change = draw(json_changes(files))
    elif kind == "bytes":
        change = draw(st.sampled_from(sorted(files))), draw(st.sampled_from(sorted(DAMAGES)) | st.integers(0, 1 << 20))
    elif kind == "swap":
        change = draw(st.sampled_from(sorted(files))), draw(st.sampled_from(SWAPS))
    elif kind == "header":
        change = draw(st.sampled_from(HEADERS))
    elif kind == "index":
        change = draw(st.sampled_from(INDEXES)), draw(st.booleans())
    elif kind == "tokens":
        change = draw(st.sampled_from((300, 301, 999, 0, -1, 10**9))), draw(st.booleans())
    else:
        change = (
            draw(
                st.sampled_from(
                    (
                        "adapter_config.json",
                        "model.py",
                        "pytorch_model.bin",
                        INDEX,
                        WEIGHTS,
                        "chat_template.jinja",
                        "special_tokens_map.json",
                        "added_tokens.json",
                        "vocab.json",
                        "merges.txt",
                        "tokenizer.model",
                        "preprocessor_config.json",
                    )
                )
            ),
            draw(st.sampled_from(sorted(DAMAGES))),
        )
    return Folder(sharded, kind, change)


def _set(content: Any, place: list[Any], value: Any, delete: bool) -> Any:
    content = deepcopy(content)
    node = content
    for step in place[:-1]:
        node = node[step]
    if delete:
        del node[place[-1]]
    else:
        node[place[-1]] = value
    return content


def _weights(data: bytes) -> tuple[dict[str, Any], bytes]:
    (size,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def _joined(header: Any, rest: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + rest


def changed_weights(data: bytes, change: str) -> bytes:
    """Change a safetensors file."""
    header, rest = _weights(data)
    name = sorted(set(header) - {"__metadata__"})[0]
    entry, (word, _, what) = header[name], change.partition(" ")
    if word == "dtype":
        entry["dtype"] = None if what == "null" else what
    elif word == "shape":
        odd = {"text": "x", "negative": [-1], "huge": [2**40, 2**40], "swapped": entry["shape"][::-1], "empty": []}
        entry["shape"] = odd[what]
    elif word == "offsets":
        first, last = entry["data_offsets"]
        odd = {
            "overlap": [first + 4, last + 4],
            "beyond": [first, len(rest) + 8],
            "backwards": [last, first],
            "text": "x",
        }
        entry["data_offsets"] = odd[what]
    elif change == "name twice":
        return _joined(json.dumps(header).encode()[:-1] + b"," + json.dumps({name: entry}).encode()[1:], rest)
    elif change == "name missing":
        del header[name]
    elif change == "name more":
        header["more"] = {"dtype": "F32", "shape": [1], "data_offsets": [len(rest), len(rest) + 4]}
        rest += bytes(4)
    elif change == "metadata number":
        header["__metadata__"] = {"format": 7}
    elif change == "header huge":
        return struct.pack("<Q", 2**62) + data[8:]
    elif change == "header short":
        return data[:6]
    elif word == "header":
        return _joined({"list": b"[1]", "no json": b"{", "not utf-8": b'{"\xff":1}'}[what], rest)
    elif word == "rest":
        rest = {"more": rest + bytes(9), "less": rest[:-9], "none": b""}[what]
    return _joined(header, rest)


def changed_tensors(file: Path, what: str) -> None:
    """Change the tensors of a safetensors file that stays a right one."""
    tensors = load_file(file)
    name = sorted(tensors)[0]
    weight = tensors[name]
    odd = {
        "nan": weight * float("nan"),
        "inf": weight / 0,
        "half": weight.half(),
        "zero": weight * 0,
        "int8": weight.to(torch.int8),
        "transposed": weight.T.contiguous(),
        "one less": weight[:-1].contiguous(),
    }
    save_file({**tensors, name: odd[what]}, file, {"format": "pt"})


def write(case: Folder, folder: Path) -> None:
    """Write the changed folder."""
    for name, data in base(case.sharded).items():
        (folder / name).write_bytes(data)
    weights = sorted(folder.glob("*.safetensors"))[0]
    if case.kind == "config":
        config = json.loads((folder / CONFIG).read_text())
        changes, missing = case.change
        config = {name: value for name, value in {**config, **dict(changes)}.items() if name not in missing}
        (folder / CONFIG).write_text(json.dumps(config))
    elif case.kind == "json":
        name, *change = case.change
        (folder / name).write_text(json.dumps(_set(json.loads((folder / name).read_text()), *change)))
    elif case.kind == "bytes":
        name, damage = case.change
        data = bytearray((folder / name).read_bytes())
        if isinstance(damage, int):
            at = damage % len(data)
            data[at] ^= 1 << (damage % 8)
        (folder / name).write_bytes(data if isinstance(damage, int) else DAMAGES[damage](bytes(data)))
    elif case.kind == "swap":
        name, swap = case.change
        (folder / name).unlink()
        if swap == "a folder":
            (folder / name).mkdir()
        elif swap != "missing":
            targets = {"a dangling link": "nowhere", "a link to itself": name, "a link to a folder": "."}
            os.symlink(targets[swap], folder / name)
    elif case.kind == "header" and case.change.startswith("weights "):
        changed_tensors(weights, case.change.removeprefix("weights "))
    elif case.kind == "header":
        weights.write_bytes(changed_weights(weights.read_bytes(), case.change))
    elif case.kind == "index":
        entries, whole = case.change
        own = json.loads((folder / INDEX).read_text())["weight_map"] if case.sharded else {}
        merged = {**own, **entries} if isinstance(entries, dict) and not whole else entries
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": merged}))
    elif case.kind == "tokens":
        number, special = case.change
        file = folder / "tokenizer.json"
        content = json.loads(file.read_text())
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        content["added_tokens"].append({"id": number, "content": "<new>", "special": special, **flags})
        file.write_text(json.dumps(content))
    else:
        name, damage = case.change
        (folder / name).write_bytes(DAMAGES[damage](b"{}"))


def check_folder(case: Folder) -> str:
    """Bring the folder as the assets stage does and load it; a model that is taken computes finite numbers."""
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stderr(io.StringIO()):
        folder = Path(name, "tiny")
        folder.mkdir()
        write(case, folder)
        folder = fetch({"type": "folder", "path": str(folder)}, Path(name, "out"))
        config = read_config(folder)
        refuse_unembedded(read_tokenizer(folder), config, folder)
        check_tensors(folder, config)
        model, tokenizer = load_folder(folder, "float32", "cpu")
        with torch.inference_mode():
            assert model(torch.arange(3, 70)[None]).logits.isfinite().all()
        assert check_masses(model).passed
        assert all(isinstance(token, int) for token in stop_tokens(model, tokenizer))
        assert tokenizer.decode(tokenizer("quick fox", add_special_tokens=False)["input_ids"]) == "quick fox"
        return "served"


KINDS = [Kind("model folders", folders(), check_folder, ci=30, long=1000)]

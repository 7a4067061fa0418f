"""What benches share: hardware and versions, models, the prompts that they are given, and tables."""

import argparse
import csv
import platform
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from pydoc_data.topics import topics
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from headscope.models.loading import LoadedModel, load

SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
LLAMAS = {"llama3_8b": (4096, 32, 32, 8, 14336, 128256), "tiny": (64, 2, 4, 2, 128, 512)}
"""SIZES and the vocabulary of models that have random weights."""


def environment() -> str:
    """Hardware and versions, one line."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{_processor()}, {torch.get_num_threads()} threads{gpu}; Python {platform.python_version()}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}"
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({platform.machine()})" if names else platform.processor() or platform.machine()


def default_asset() -> Path:
    """The model folder that the default experiment made; exits with the remedy if there is none."""
    found = sorted(Path("results/assets").glob("*smollm2*--*"))
    if not found:
        sys.exit("no model under results/assets: run `headscope run` once, or name a model folder with --asset")
    return found[-1]


def load_asset(asset: Path, device: str) -> LoadedModel:
    """The model in float32, as the default experiment uses it."""
    return load(asset, "float32", device)


def random_llama(name: str, device: str, positions: int, layers: int | None = None) -> PreTrainedModel:
    """One of LLAMAS with random weights and no stop token, made on the device in bfloat16: no float32 copy exists."""
    *sizes, vocab = LLAMAS[name]
    shape = {**dict(zip(SIZES, sizes, strict=True)), "vocab_size": vocab, "max_position_embeddings": positions}
    shape |= {"num_hidden_layers": layers} if layers else {}
    config = LlamaConfig(**shape, bos_token_id=None, eos_token_id=None)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    return model.eval().requires_grad_(False)


def model_options(doc: str | None) -> argparse.ArgumentParser:
    """A command's options, so far those that `built` reads but for `tokens`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["smollm2", *LLAMAS], default="smollm2")
    parser.add_argument("--asset", type=Path, help="model folder under results/assets, for smollm2")
    parser.add_argument("--layers", type=int, help="of random weights; their model's own")
    parser.add_argument("--device", default="cpu")
    return parser


def built(options: argparse.Namespace) -> tuple[Any, Tensor]:
    """The model in bfloat16, and token ids that prompts are cut from: prose, or random ones for random weights."""
    if options.model == "smollm2":
        loaded = load(options.asset or default_asset(), "bfloat16", options.device)
        ids = loaded.tokenizer("\n\n".join(topics.values()), add_special_tokens=False, verbose=False).input_ids
        return loaded.model, torch.tensor(ids)
    model = random_llama(options.model, options.device, max(131072, *options.tokens), options.layers)
    return model, torch.randint(model.config.vocab_size, (1 << 20,))


def cut(stream: Tensor, rows: range, length: int) -> Tensor:
    """Rows of the stream, [R, length] ids; it begins again behind its end."""
    return stream[(torch.tensor(rows)[:, None] * length + torch.arange(length)) % len(stream)]


class Numbers:
    """A tokenizer whose texts are the token ids themselves: what `headscope.calibrate` asks of one, exact in length."""

    is_fast, eos_token_id = True, None

    def encode(self, text: str, **_: Any) -> list[int]:
        """Token ids."""
        return [int(number) for number in text.split()]

    def __call__(self, text: str, **_: Any) -> SimpleNamespace:
        """Token ids, without character offsets: no prompt here is a pair."""
        return SimpleNamespace(input_ids=self.encode(text), offset_mapping=[])


def as_texts(ids: Tensor) -> list[str]:
    """Prompts [R, T] as the texts that `Numbers` reads."""
    return [" ".join(map(str, row)) for row in ids.tolist()]


def shown(row: dict[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    """A row of a table, its numbers to four digits; prints it."""
    found = {name: f"{row[name]:.4g}" if isinstance(row[name], float) else row[name] for name in columns}
    print(", ".join(f"{name} {value}" for name, value in found.items()), flush=True)
    return found


def write(out: Path, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    """Write a table anew."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)

"""Checks the numbers of a config by a table, before anything is built or computed of them.

transformers warns of some, takes others as they are, and builds as many layers as it is told.
"""

from collections.abc import Mapping
from math import isfinite
from typing import Any, NamedTuple

from headscope.errors import UnsupportedModelError

LARGEST = 1 << 28
"""Size of a layer, in numbers: the product of two, in bytes, fits 64 bits."""


class Range(NamedTuple):
    """Numbers that a field may have.

    Attributes:
        least: the smallest, or a bound that is itself too small.
        most: the largest.
        above: whether `least` itself is too small.
    """

    least: float
    most: float = float("inf")
    above: bool = False

    def __str__(self) -> str:
        least = f"above {self.least:g}" if self.above else f"of {self.least:g} or more"
        return f"a number {least}" + (f", {self.most:g} at most" if isfinite(self.most) else "")

    def holds(self, value: Any) -> bool:
        """Return True for a number in the range."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            return False
        return self.least < value <= self.most or (value == self.least and not self.above)


SIZES = {
    **dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size", "head_dim"), Range(1, LARGEST)),
    **dict.fromkeys(("num_hidden_layers", "num_attention_heads", "num_key_value_heads"), Range(1, 1 << 16)),
    "max_position_embeddings": Range(1, 1 << 31),
}
EPSILONS = dict.fromkeys(("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps"), Range(0, 1, above=True))
"""With 0 a token whose embedding is zero, as padding's often is, becomes NaN."""
ROPE = {
    **dict.fromkeys(("factor", "original_max_position_embeddings"), Range(1)),
    **dict.fromkeys(("rope_theta", "low_freq_factor", "high_freq_factor", "attention_factor"), Range(0, above=True)),
    **dict.fromkeys(("beta_fast", "beta_slow"), Range(0, above=True)),
    "partial_rotary_factor": Range(0, above=True),
}
FACTORS = ("short_factor", "long_factor")


def refuse_wrong_numbers(text: Any) -> None:
    """Refuse a decoder's config with a number that cannot be, or RoPE parameters that transformers would only warn of.

    Raises:
        UnsupportedModelError: naming the field and its value.
    """
    reason = _size(text) or _rope(text, getattr(text, "rope_parameters", None))
    if reason:
        raise UnsupportedModelError(
            f"model type {text.model_type}: {reason}; repair its config.json, or choose another model"
        )


def _size(text: Any) -> str | None:
    for name, numbers in {**SIZES, **EPSILONS}.items():
        try:
            value = getattr(text, name, None)
        except Exception:
            continue
        # What is no number at all is said where it is read.
        if isinstance(value, int | float) and not numbers.holds(value):
            return f"{name} is {value}, not {numbers}"
    return None


def _rope(text: Any, rope: Any) -> str | None:
    """Check the parameters of all layers, or of each kind of layer."""
    if not isinstance(rope, Mapping):
        return None if rope is None else f"rope_parameters is a {type(rope).__name__}, not an object"
    nested = [_rope(text, inner) for inner in rope.values() if isinstance(inner, Mapping)]
    return next(filter(None, nested), None) or _numbers(rope) or _lists(text, rope)


def _numbers(rope: Mapping[str, Any]) -> str | None:
    for name, numbers in ROPE.items():
        value = rope.get(name)
        if value is not None and not numbers.holds(value):
            return f"{name} of its RoPE is {value!r:.40}, not {numbers}"
    low, high = rope.get("low_freq_factor"), rope.get("high_freq_factor")
    if low is not None and high is not None and low >= high:
        return f"low_freq_factor of its RoPE is {low}, not below high_freq_factor, {high}"
    return None


def _lists(text: Any, rope: Mapping[str, Any]) -> str | None:
    """Check the factors of longrope, one for each pair of rotated numbers."""
    if rope.get("rope_type") != "longrope":
        return None
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    pairs = int(head_dim * (rope.get("partial_rotary_factor") or 1)) // 2
    for name in FACTORS:
        values = rope.get(name)
        if not isinstance(values, list) or not all(map(Range(0, above=True).holds, values)):
            return f"{name} of its RoPE is {values!r:.40}, not a list of numbers above 0"
        if len(values) != pairs:
            return f"{name} of its RoPE has {len(values)} numbers, not {pairs}, one for each pair of a head's numbers"
    return None

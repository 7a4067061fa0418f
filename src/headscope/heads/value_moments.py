"""What a bulk of Gaussian keys and values brings: the values' mean and their covariance with the keys.

Shapes: B rows, H query heads, K KV heads, G = H // K query heads a KV head, Q queries, N tokens, D head_dim.
"""

from dataclasses import dataclass

from torch import Tensor

from headscope.heads.mass import group_heads, precise


@dataclass(frozen=True)
class ValueMoments:
    """Count and mean of the values of each KV head, and how they vary with the keys.

    Attributes:
        count: tokens seen, the same for every KV head.
        key: mean of the rotated keys, [K, D], float32 or better.
        value: mean of the values, [K, D].
        covariance: of each key dimension with each value dimension, [K, D, D], divided by count; None: values do not
            vary with keys.
    """

    count: int
    key: Tensor
    value: Tensor
    covariance: Tensor | None

    @classmethod
    def of(cls, keys: Tensor, values: Tensor, covariance: bool) -> "ValueMoments":
        """Moments of keys and values, [K, N, D]; with no token at all they are zero."""
        keys, values = precise(keys), precise(values)
        count = keys.shape[1]
        key, value = (data.sum(1) / max(count, 1) for data in (keys, values))
        if not covariance:
            return cls(count, key, value, None)
        together = (keys - key[:, None]).transpose(1, 2) @ (values - value[:, None])
        return cls(count, key, value, together / max(count, 1))

    def merge(self, other: "ValueMoments") -> "ValueMoments":
        """Moments of both sets of tokens together (Chan, Golub and LeVeque 1983); order does not matter."""
        count = self.count + other.count
        if not count:
            return self
        share, of_key, of_value = other.count / count, other.key - self.key, other.value - self.value
        covariance = None
        if self.covariance is not None and other.covariance is not None:
            spread = share * (1 - share) * of_key[:, :, None] * of_value[:, None, :]
            covariance = (1 - share) * self.covariance + share * other.covariance + spread
        return ValueMoments(count, self.key + share * of_key, self.value + share * of_value, covariance)

    def attended(self, query: Tensor, scale: float, tilt: Tensor | None = None) -> Tensor:
        """Mean value under the query's attention, [B, H, Q, D].

        For jointly Gaussian v and s = scale q'k it is E[v e^s] / E[e^s] = E[v] + Cov(v, s) = E[v] + scale Cov(v, k) q:
        attention moves the Gaussian's mean and keeps its spread (exponential tilting).

        Args:
            query: [B, H, Q, D].
            scale: factor of the scores.
            tilt: how much of the move is made, [B, H, Q]; None makes all of it.

        Raises:
            ShapeError: query heads are no multiple of the KV heads.
        """
        grouped = group_heads(precise(query), self.value.shape[0]).to(self.value.dtype)
        value = self.value[:, None, None].expand_as(grouped).flatten(1, 2)
        if self.covariance is None:
            return value
        moved = (grouped @ self.covariance[:, None]).flatten(1, 2) * scale
        return value + (moved if tilt is None else moved * tilt[..., None])

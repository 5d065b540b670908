r"""Upper bounds of many inner products at a fraction of their cost, rounding included.

The posterior over a training set weighs point i by `(v . c_i - |c_i|^2 / 2) / sigma^2`, with v and c_i relative to a centre.
Data lie near a subspace; noise does not. With an orthonormal basis whose leading directions carry most of the data,

    v . c_i <= sum over the leading coordinates of v_j c_ij + sum over blocks b of the others of |P_b v| |P_b c_i|,

by Cauchy and Schwarz in each block. The blocks matter: noise is spread evenly over the directions and the data are not, so
that a single block for all the others would bound by several times more. What stands on the right is itself an inner
product, of as many numbers as leading directions and blocks; so all bounds of a batch of queries are one matrix product.

Everything that rounding adds is bounded as well, whatever the order of summation, and becomes part of the same product:
a multiple of `|v| |c_i|`, and `|c_i|^2 / 2` shrunk a little. The numbers that are multiplied may be narrower than the
points, such as bfloat16 for float32: rounding the leading coordinates to nearest, by half an epsilon of theirs, adds at most
that epsilon times `|v| |c_i|`; norms are rounded up; and the square is kept as a sum of two numbers.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..._jax.precision import HIGHEST, common_dtype
from .._posterior.product_logits import inner_products


class Screen(eqx.Module):
    """What the bounds need of the points: their leading coordinates, and the norms of blocks of the others."""

    basis: Float[Array, "d directions"]
    columns: Float[Array, "k n"]
    edges: tuple[int, ...] = eqx.field(static=True)  # of the blocks; the first is the width
    slack: Float[Array, ""]  # relative error of an inner product, by |v| |c_i|
    slack_rest: Float[Array, ""]  # error of |P_rest v|, by |v|

    def rows(self, v: Float[Array, "queries d"]) -> Float[Array, "queries k"]:
        """What the columns are multiplied with: `bounds` of that product."""
        q = jnp.dot(v, self.basis, precision=HIGHEST)
        rest = v - inner_products(q, self.basis)
        length = jnp.linalg.norm(v, axis=1)
        blocks = [jnp.linalg.norm(q[:, a:b], axis=1) for a, b in itertools.pairwise(self.edges)]
        outside = jnp.linalg.norm(rest, axis=1) + self.slack_rest * length
        norms = jnp.stack([*blocks, outside, self.slack * length], axis=1)
        square = jnp.full((len(v), 2), -1, v.dtype)
        return jnp.concatenate([q[:, : self.edges[0]], norms, square], axis=1).astype(
            self.columns.dtype
        )

    def bounds(self, v: Float[Array, "queries d"]) -> Float[Array, "queries n"]:
        """Upper bounds of `v . c_i - |c_i|^2 / 2`."""
        dtype = _sum_dtype(self.columns.dtype)
        return jnp.dot(self.rows(v), self.columns, precision=HIGHEST, preferred_element_type=dtype)


def _sum_dtype(dtype: Any) -> Any:
    """What products of numbers of that dtype are summed in."""
    return common_dtype(dtype, jnp.float32)


def build_screens(
    points: np.ndarray,
    centre: np.ndarray,
    basis: np.ndarray,
    edges: Sequence[tuple[int, ...]],
    num_rows: int,
    dtype: Any,
) -> list[Screen]:
    """Screens of the points, padded to `num_rows` with columns whose bound is as low as the dtype allows.

    Args:
        points: shape (n, d).
        centre: shape (d,).
        basis: orthonormal, shape (d, at least as many as there are directions in any screen).
        edges: of each screen, first and last directions of the blocks, ascending; the first is the number of leading
            coordinates, the last that of directions.
        num_rows: of the columns' array, at least n.
        dtype: of the numbers that are multiplied, the points' or a narrower one.
    """
    n, d = points.shape
    # Of the basis and of the queries' coordinates; of the numbers that are multiplied; of their sums.
    eps, narrow, total = (_eps(x) for x in (points, dtype, _sum_dtype(dtype)))
    most = max(edge[-1] for edge in edges)
    rounded = basis[:, :most].astype(points.dtype).astype(np.float64)
    # How far the rounded basis is from orthonormal, and the error of that in float64.
    gram = rounded.T @ rounded - np.eye(most)
    skews = {k: float(np.linalg.norm(gram[:k, :k])) + d * 4e-16 * k for *_, k in edges}
    skew = skews[most]
    arrays = [np.zeros((edge[0] + len(edge) + 3, num_rows), dtype) for edge in edges]
    for start in range(0, n, 4096):
        end = min(start + 4096, n)
        # One point a column, as they are kept.
        c = (points[start:end].astype(np.float64) - centre.astype(np.float64)).T
        s = rounded.T @ c
        length = np.linalg.norm(c, axis=0)
        outside = np.linalg.norm(c - rounded @ s, axis=0)
        for edge, columns in zip(edges, arrays, strict=True):
            part = columns[:, start:end]
            part[: edge[0]] = s[: edge[0]]
            blocks = [np.linalg.norm(s[a:b], axis=0) for a, b in itertools.pairwise(edge)]
            # What lies outside of all directions, and in those that this screen does not have. Were they orthonormal,
            # these two would be orthogonal; their inner product is at most `skew |c|` times the second.
            beyond = np.linalg.norm(s[edge[-1] :], axis=0)
            rest = outside**2 + (1 + skew) * (beyond**2 + 2 * skew * length * beyond)
            # Lengths up, squares down: each by more than their errors in float64.
            for k, norm in enumerate([*blocks, np.sqrt(rest), length]):
                part[edge[0] + k] = norm * (1 + 2 * eps) + 1e-12 * length
            below = 0.5 * length**2 * (1 - (len(columns) + 2) * total)
            part[-2] = below
            left = below - part[-2].astype(np.float64)
            part[-1] = left - 2 * narrow * np.abs(left)
    screens = []
    for edge, columns in zip(edges, arrays, strict=True):
        columns[-1, n:] = float(jnp.finfo(dtype).max) / 4
        directions, skew = edge[-1], skews[edge[-1]]
        # The error of coordinates v . basis_j: one of `d + 1` roundings each, by |v|, root (directions) of it for all; of
        # the norms of blocks; of the product itself; of the rounded columns. `eps` is twice the unit roundoff.
        coordinates = math.sqrt(directions) * (d + 2)
        slack = eps * (coordinates + d + 16) + total * (len(columns) + 16) + 4 * skew
        # Rounding both factors of each product; the slack's own too.
        slack = (slack + 1.01 * narrow) * (1 + 2 * narrow)
        # v - basis q: `directions + 2` more roundings of terms as large as |v|.
        slack_rest = coordinates + math.sqrt(directions) * (directions + 2) + d + 8
        screens.append(
            Screen(
                jnp.asarray(rounded[:, :directions].astype(points.dtype)),
                jnp.asarray(columns),
                edge,
                jnp.asarray(slack, points.dtype),
                jnp.asarray(eps * slack_rest + 2 * skew, points.dtype),
            )
        )
    return screens


def _eps(of: Any) -> float:
    """Of an array's dtype, or of a dtype: twice the unit roundoff."""
    return float(jnp.finfo(getattr(of, "dtype", of)).eps)

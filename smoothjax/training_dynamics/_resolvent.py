r"""The resolvent of the covariance of wide random features, by its deterministic equivalent.

Features of a noisy point are, in the limit and for what follows, Gaussian: with K = W W^T / d, their covariance over the
noise and n points is

    N = (1/n) G G^T + beta K + own,      G = sqrt(gamma) W X / sqrt(d) + sqrt(shared) Omega,

gamma = alpha^2 c_1^2 and beta = (1 - alpha^2) c_1^2 of the linear part's coefficient c_1. Given W the columns of G are
independent with covariance `S = gamma K + shared`, a function of K as all the rest: so `(N - z)^-1` is equivalent to

    (q S + beta K - y)^-1,  y = z - own,  1/q = 1 + (1/n) tr S (q S + beta K - y)^-1,

and traces are integrals over the Marchenko-Pastur law of K, of functions that are rational in it.
"""

import dataclasses
from typing import Any

import numpy as np

from ._activation import ActivationParts

Complex = np.ndarray[Any, np.dtype[np.complex128]]
STAGES, STEPS = 60, 8


@dataclasses.dataclass(frozen=True)
class FeatureCovariance:
    """The numbers that decide the limit.

    Attributes:
        train_ratio: n / d.
        feature_ratio: p / d.
        gamma, beta: of the linear part, what is of the data and of the noise.
        shared, own: of the nonlinear part.
    """

    train_ratio: float
    feature_ratio: float
    gamma: float
    beta: float
    shared: float
    own: float

    @classmethod
    def of(
        cls, parts: ActivationParts, signal: float, train_ratio: float, feature_ratio: float
    ) -> "FeatureCovariance":
        square = parts.linear**2
        gamma, beta = signal * square, (1 - signal) * square
        return cls(train_ratio, feature_ratio, gamma, beta, parts.shared, parts.own)

    @property
    def per_point(self) -> float:
        """p / n, which turns a mean over features into a sum a point."""
        return self.feature_ratio / self.train_ratio

    def equivalent(self, place: np.ndarray) -> "Equivalent":
        """At complex z off the real axis, either side, or on it for z + i0."""
        z: Complex = np.asarray(place, complex)
        mirrored = z.imag < 0
        q = self._solved(np.where(mirrored, z.conj(), z))
        return Equivalent(self, z, np.where(mirrored, q.conj(), q))

    def _solved(self, z: Complex) -> Complex:
        """q, followed from far above to z: there the fixed point attracts, and Newton's method takes it down."""
        y = z - self.own
        size = np.maximum(np.abs(z), 1e-300)
        e = np.zeros_like(z)
        height = 4 * self.upper_bound() + size
        for _ in range(40):
            e = self._next(1 / (1 + e), y + 1j * height)[0]
        final = np.maximum(z.imag, 1e-13 * size)
        for stage in range(1, STAGES + 1):
            share = stage / STAGES
            place = z.real - self.own + 1j * height ** (1 - share) * final**share
            for _ in range(STEPS):
                e = self._step(e, place)
        return 1 / (1 + e)

    def _step(self, e: Complex, y: Complex) -> Complex:
        """Newton's step where it stays a trace of a resolvent, with a positive imaginary part; else one of iteration."""
        q = 1 / (1 + e)
        value, slope = self._next(q, y)
        newton = e - (e - value) / (1 + q**2 * slope)
        return np.where((newton.imag > 0) & np.isfinite(newton), newton, value)

    def _next(self, q: Complex, y: Complex) -> tuple[Complex, Complex]:
        """`(1/n) tr S (q S + beta K - y)^-1`, and its derivative by q."""
        A, B = self.gamma * q + self.beta, self.shared * q - y
        place = -B / A
        m, slope = marchenko_pastur(place, self.feature_ratio)
        w = (self.shared - self.gamma * B / A) / A
        value = self.per_point * (self.gamma / A + w * m)
        move = -(self.gamma**2) / A**2 - 2 * self.gamma * w / A * m - w**2 * slope
        return value, self.per_point * move

    def upper_bound(self) -> float:
        """Of the spectrum: the sum of what its parts are at most, and a little."""
        c = (1 + np.sqrt(self.feature_ratio)) ** 2
        points = (1 + np.sqrt(self.per_point)) ** 2
        return 1.01 * ((self.gamma * c + self.shared) * points + self.beta * c + self.own)


@dataclasses.dataclass(frozen=True)
class Equivalent:
    """The deterministic equivalent of `(N - z)^-1` at some z."""

    covariance: FeatureCovariance
    z: Complex
    q: Complex

    @property
    def line(self) -> tuple[Complex, Complex]:
        """A and B: the inverse is `A K + B`."""
        c = self.covariance
        return c.gamma * self.q + c.beta, c.shared * self.q - (self.z - c.own)

    @property
    def trace(self) -> Complex:
        """`(1/p) tr (N - z)^-1`."""
        A, B = self.line
        return marchenko_pastur(-B / A, self.covariance.feature_ratio)[0] / A

    @property
    def linear_trace(self) -> Complex:
        """`(1/p) tr K (N - z)^-1`."""
        A, B = self.line
        return (1 - B * self.trace) / A


def product_trace(first: Equivalent, second: Equivalent) -> Complex:
    """`(1/d) tr K (N - z)^-1 T (N - z')^-1` between all z and z', which differ, with T the covariance of new points.

    `T = c_1^2 K + shared + own`. Two resolvents of the same points are not independent: to the product of both equivalents
    comes one that passes through the points, `q q' (1/n) tr S R T R'` over one less `q q' (1/n) tr S R S R'`.
    """
    c = first.covariance
    (A, B), (C, D) = (tuple(x[:, None] for x in first.line), tuple(x[None] for x in second.line))
    g, h = first.trace[:, None], second.trace[None]
    # Of 1, K and K^2 over the product of both lines: partial fractions.
    determinant = C * B - A * D
    none = (C * h - A * g) / determinant
    once = (B * g - D * h) / determinant
    twice = (first.linear_trace[:, None] - D * once) / C
    linear, rest = c.gamma + c.beta, c.shared + c.own
    qq = first.q[:, None] * second.q[None]
    ours = c.feature_ratio * (linear * twice + rest * once)
    into = c.feature_ratio * (c.gamma * twice + c.shared * once)
    new = c.per_point * (
        c.gamma * linear * twice
        + (c.gamma * rest + c.shared * linear) * once
        + c.shared * rest * none
    )
    same = c.per_point * (c.gamma**2 * twice + 2 * c.gamma * c.shared * once + c.shared**2 * none)
    return ours + into * qq * new / (1 - qq * same)


def marchenko_pastur(z: Complex, ratio: float) -> tuple[Complex, Complex]:
    """`m(z) = (1/p) tr (W W^T / d - z)^-1` for p = ratio d, off the spectrum, and its derivative."""
    low, high = (1 - np.sqrt(ratio)) ** 2, (1 + np.sqrt(ratio)) ** 2
    # Two roots, whose cuts below the spectrum cancel.
    root = np.sqrt(z - low) * np.sqrt(z - high)
    # Of the two forms of the root of a quadratic, the one without cancellation.
    ahead = (1 - ratio) - z
    plus, minus = ahead + root, ahead - root
    safe = np.abs(plus) >= np.abs(minus)
    m = np.where(safe, plus / (2 * ratio * z), 2 / np.where(safe, 1, minus))
    slope = -(ratio * m**2 + m) / (2 * ratio * z * m - ahead)
    return m, slope

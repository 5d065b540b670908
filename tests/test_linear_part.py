"""The linear part of a flow over one step, which is exact."""

import mpmath
import numpy as np

from smoothjax._ode.linear_part import linear_step, noise_scale


def test_linear_part_against_its_equation(x64):
    """Mean and variance of `du = (1 + eta) (D - u) dtau + sqrt(2 eta) sigma dB` for constant D, by quadrature."""
    s, t, eta, u, point = 0.7, 0.2, 0.6, 1.3, -0.4
    h = np.log(t / s)
    rate = mpmath.mpf(1 + eta)
    with mpmath.workdps(30):
        kept = mpmath.e ** (rate * h)
        variance = mpmath.quad(lambda r: 2 * eta * r * (mpmath.mpf(t) / r) ** (2 * rate), [t, s])
    np.testing.assert_allclose(linear_step(u, point, h, eta), float(point + kept * (u - point)), rtol=1e-14)  # fmt: skip
    np.testing.assert_allclose(noise_scale(t, h, eta) ** 2, float(variance), rtol=1e-13)

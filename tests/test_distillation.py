import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smoothjax as sj
from smoothjax.learning import AffineDenoiser, distill_linear
from smoothjax.measures import Estimate

# Compiles for minutes in all: not a second time in the suite at default precision.
pytestmark = pytest.mark.slow

# Statistical tests run at fixed keys and allow this many standard errors.
NUM_SE = 4


def eps(dtype):
    return float(jnp.finfo(dtype).eps)


class Tanh(eqx.Module):
    """A denoiser that is not affine, and not the posterior mean of anything."""

    matrix: jax.Array

    def __call__(self, u, sigma):
        return jnp.tanh(jnp.matmul(self.matrix, u, precision="highest")) + 0.2 * u / (1 + sigma)


def tanh_and_data(n, d, dtype, seed=0):
    rng = np.random.default_rng(seed)
    denoiser = Tanh(jnp.asarray(rng.normal(size=(d, d)), dtype))
    return denoiser, jnp.asarray(3 + rng.normal(size=(n, d)) @ rng.normal(size=(d, d)), dtype)


def noisy_points(data, sigma, key, num_noises):
    """The documented noises in float64: pairs z, -z, those of point i from the key folded with i."""
    pairs = []
    for i, x in enumerate(data):
        size = (num_noises // 2 * x.size,)
        z = jax.random.normal(jax.random.fold_in(key, i), size, x.dtype).reshape(-1, x.size)
        z = np.asarray(z, np.float64)
        pairs.append(np.asarray(x, np.float64) + sigma * np.concatenate([z, -z]))
    return np.stack(pairs)


def brute_force(denoiser, gaussian, data, sigma, key, num_noises, ridge, control):
    """Everything by plain least squares in float64, with a (d, d) influence for each point."""
    n, d = data.shape
    fit_key, fresh_key = jax.random.split(key)
    moments = gaussian.mean_and_covariance()
    mean, covariance = (np.asarray(x, np.float64) for x in moments)
    gains = covariance @ np.linalg.inv(covariance + sigma**2 * np.eye(d))
    offset = mean - gains @ mean
    if not control:
        gains0, offset0 = np.zeros((d, d)), np.zeros(d)
    else:
        gains0, offset0 = gains, offset

    def sample(key):
        u = noisy_points(data, sigma, key, num_noises)
        # The denoiser in float64 too, where there is float64: the reference has no rounding of float32.
        wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x, np.float64)), denoiser)
        values = jax.vmap(jax.vmap(lambda u: wide(u, sigma)))(jnp.asarray(u))
        return u, np.asarray(values, np.float64)

    u, values = sample(fit_key)
    rows = u.reshape(-1, d)
    centred = rows - rows.mean(0)
    targets = (values - u @ gains0.T - offset0).reshape(-1, d)
    C = centred.T @ centred / len(rows)
    inverse = np.linalg.inv(C + ridge * np.eye(d))
    W = gains0 + (targets - targets.mean(0)).T @ centred / len(rows) @ inverse
    b = values.reshape(-1, d).mean(0) - W @ rows.mean(0)

    def per_point(x):
        return np.mean(x**2, axis=(1, 2))

    def mean_and_error(x):
        return np.mean(x), np.std(x, ddof=1) / np.sqrt(n)

    difference = per_point(values - u @ gains.T - offset)
    residual = per_point(values - u @ W.T - b)
    mismatch = np.mean((u @ W.T + b - u @ gains.T - offset) ** 2)
    found = {
        "matrix": W,
        "offset": b,
        "difference": mean_and_error(difference),
        "nonlinear_residual": mean_and_error(residual),
        "linear_mismatch": (mismatch, mean_and_error(difference - residual)[1]),
    }

    u, values = sample(fresh_key)
    left = values - u @ W.T - b
    design = np.concatenate([u - rows.mean(0), np.ones((n, num_noises, 1))], axis=2)
    bread = np.zeros((d + 1, d + 1))
    bread[:d, :d], bread[d, d] = inverse, 1
    influence = np.einsum("nka,nkb->nab", left, design) @ bread / num_noises
    # From the mean at the centre to the offset at zero.
    influence[..., d] -= influence[..., :d] @ rows.mean(0)
    errors = np.std(influence, axis=0, ddof=1) / np.sqrt(n)
    found["matrix_error"], found["offset_error"] = errors[:, :d], errors[:, d]
    unexplained, total = per_point(left), per_point(values - W @ rows.mean(0) - b)
    ratio = unexplained.mean() / total.mean()
    found["r_squared"] = (
        1 - ratio,
        mean_and_error((unexplained - ratio * total) / total.mean())[1],
    )
    influence[..., d] += influence[..., :d] @ rows.mean(0)
    metric = np.zeros((d + 1, d + 1))
    metric[:d, :d], metric[d, d] = C, 1
    found["fit_noise"] = np.einsum("nab,bc,nac->", influence, metric, influence) / n**2 / d
    return found


def check(found, expected, rtol):
    for name in ("difference", "nonlinear_residual", "linear_mismatch", "r_squared"):
        got = getattr(found, name)
        np.testing.assert_allclose(
            [got.value, got.standard_error], expected[name], rtol=rtol, err_msg=name
        )
    scale = np.max(np.abs(expected["matrix"])) * rtol
    np.testing.assert_allclose(found.matrix.value, expected["matrix"], atol=scale)
    np.testing.assert_allclose(found.offset.value, expected["offset"], atol=10 * scale)
    np.testing.assert_allclose(found.matrix.standard_error, expected["matrix_error"], rtol=rtol)
    np.testing.assert_allclose(found.offset.standard_error, expected["offset_error"], rtol=rtol)
    np.testing.assert_allclose(found.fit_noise, expected["fit_noise"], rtol=rtol)


@pytest.mark.parametrize("control", ["gaussian", None])
@pytest.mark.parametrize("ridge", [0.0, 0.5])
def test_fit_and_errors_are_those_of_plain_least_squares(x64, control, ridge):
    denoiser, data = tanh_and_data(45, 3, jnp.float64)
    # Not that of the data, so that the mismatch has a mean.
    reference = sj.GaussianDenoiser(jnp.ones(3), jnp.diag(jnp.array([2.0, 1.0, 0.0])))
    key, sigma, num_noises = jax.random.key(1), 0.8, 4
    expected = brute_force(denoiser, reference, data, sigma, key, num_noises, ridge, control)
    # 7 points at a time, and fewer in the end; all at once.
    for batch_size in (28, 1024) if control else (28,):
        found = distill_linear(
            denoiser,
            data,
            sigma,
            key,
            reference=reference,
            num_noises=num_noises,
            ridge=ridge,
            control=control,
            batch_size=batch_size,
        )
        # Sums of 180 terms, through matrices with condition numbers of about 100.
        check(found, expected, 1e-11)
        parts = found.nonlinear_residual.value + found.linear_mismatch.value
        gap = abs(float(found.difference.value - parts))
        assert gap < 20 * eps(jnp.float64) * float(parts) if not ridge else gap > 1e-3


def test_fit_in_single_precision():
    denoiser, data = tanh_and_data(45, 3, jnp.float32)
    reference = sj.GaussianDenoiser.fit(data)
    key, sigma = jax.random.key(1), 0.8
    found = distill_linear(denoiser, data, sigma, key, num_noises=4)
    assert found.matrix.value.dtype == found.r_squared.standard_error.dtype == jnp.float32
    expected = brute_force(denoiser, reference, data, sigma, key, 4, 0.0, True)
    # Values at u of size 10 in tanh of slope about 2 are off by some 20 eps, of a residual of about 0.1.
    check(found, expected, 1000 * eps(jnp.float32))


def test_gaussian_denoiser_is_recovered_without_error():
    dtype = jnp.result_type(float)
    data = tanh_and_data(40, 4, dtype)[1]
    D = sj.GaussianDenoiser.fit(data)
    found = distill_linear(D, data, 0.3, jax.random.key(0), batch_size=16)
    gains = jax.vmap(lambda e: D(D.mean + e, 0.3) - D.mean)(jnp.eye(4, dtype=dtype)).T
    np.testing.assert_allclose(found.matrix.value, gains, atol=20 * eps(dtype))
    # The same numbers twice, but that compilers may fuse the two evaluations differently.
    for value in (found.difference.value, found.nonlinear_residual.value, found.fit_noise):
        assert value <= (20 * eps(dtype) * float(jnp.max(jnp.abs(data)))) ** 2
    assert np.max(found.matrix.standard_error) < 20 * eps(dtype)
    assert abs(float(found.r_squared.value) - 1) <= 20 * eps(dtype)
    # It holds for inputs of another law, too.
    other = distill_linear(D, 0.5 * data, 0.3, jax.random.key(0), reference=D)
    np.testing.assert_allclose(other.matrix.value, gains, atol=20 * eps(dtype))


def test_small_noise_in_single_precision():
    """The condition number of the inputs enters once; in the normal equations of u it enters squared."""
    rng = np.random.default_rng(3)
    d, sigma = 6, 1e-3
    spread = np.array([2.0, 1.0, 0.5, 1e-2, 0.0, 0.0])
    data = jnp.asarray(rng.normal(size=(200, d)) * spread, jnp.float32)
    matrix = jnp.asarray(np.eye(d) + 0.1 * rng.normal(size=(d, d)), jnp.float32)
    offset = jnp.asarray(rng.normal(size=d), jnp.float32)
    D = AffineDenoiser(matrix, offset, sigma)
    found = distill_linear(D, data, sigma, jax.random.key(0))
    # Values of size 5 are rounded by 5 eps / 2, of which independent ones average out: 1 over sqrt(200) of that, over the
    # least spread of the inputs, 1e-3, is 180 eps. Squared, the condition number 2000 makes it useless: 4e6 eps.
    np.testing.assert_allclose(found.matrix.value, matrix, atol=1000 * eps(jnp.float32))
    np.testing.assert_allclose(found.offset.value, offset, atol=1000 * eps(jnp.float32))
    assert float(found.nonlinear_residual.value) < (10 * eps(jnp.float32)) ** 2
    assert float(found.r_squared.value) > 1 - 1e-10 or found.r_squared.value == 1


def joined(matrix, offset):
    return np.concatenate([matrix, offset[..., None]], axis=-1)


REPEATS = 100


def repeated(denoiser, draw, sigma, key, **options):
    """`distill_linear` on independent draws of the data and their noises."""

    @eqx.filter_jit
    def run(denoiser, keys):
        def one(key):
            data_key, noise_key = jax.random.split(key)
            return distill_linear(denoiser, draw(data_key), sigma, noise_key, **options)

        return jax.lax.map(one, keys, batch_size=10)

    return run(denoiser, jax.random.split(key, REPEATS))


def test_memorizing_denoiser_distils_to_the_gaussian_at_the_root_of_n(x64):
    """Each entry within standard errors that are right, and errors that fall as the root of the number of draws."""
    rng = np.random.default_rng(4)
    train = jnp.asarray(rng.normal(size=(8, 2)) ** 3)
    D, gaussian, sigma = sj.EmpiricalDenoiser(train), sj.GaussianDenoiser.fit(train), 0.7
    covariance = gaussian.covariance()
    W = covariance @ np.linalg.inv(covariance + sigma**2 * np.eye(2))
    exact = np.concatenate([W, (gaussian.mean - W @ gaussian.mean)[:, None]], axis=1)
    log_errors, spreads, sizes = [], [], (200, 3200)
    for n in sizes:

        def draw(key, n=n):
            return train[jax.random.randint(key, (n,), 0, len(train))]

        found = repeated(D, draw, sigma, jax.random.key(5), reference=gaussian)
        z = joined(found.matrix.value, found.offset.value) - exact
        squares = np.mean(z[..., :2] ** 2, axis=(1, 2))
        log_errors.append(0.5 * np.log(np.mean(squares)))
        spreads.append(np.std(squares) / np.mean(squares) / 2 / np.sqrt(REPEATS))
        z = z / joined(found.matrix.standard_error, found.offset.standard_error)

    # Of the last and larger size. One draw within 4 standard errors, in every entry: 6 of them, at odds of 6e-5 each.
    assert np.max(np.abs(z[0])) < NUM_SE
    # All: the mean square of 600 scores is 1, with the spread of the repetitions' means.
    of_each = np.mean(z**2, axis=(1, 2))
    assert abs(of_each.mean() - 1) < NUM_SE * of_each.std() / np.sqrt(REPEATS)
    # What is left of the mismatch is the fit's own noise, as large as was said.
    mismatch, noise = np.asarray(found.linear_mismatch.value), np.asarray(found.fit_noise)
    assert abs(np.mean(mismatch - noise)) < NUM_SE * np.std(mismatch) / np.sqrt(REPEATS)
    assert np.std(mismatch) / np.sqrt(REPEATS) < 0.15 * noise.mean()

    slope = (log_errors[1] - log_errors[0]) / np.log(sizes[1] / sizes[0])
    error = np.hypot(*spreads) / np.log(sizes[1] / sizes[0])
    assert error < 0.04
    assert abs(slope + 0.5) < NUM_SE * error


@pytest.mark.exhaustive
def test_standard_errors_are_the_spread_over_repetitions(x64):
    denoiser = tanh_and_data(1, 2, jnp.float64)[0]
    root = jnp.array([[1.0, 0.4], [0.0, 0.6]])

    def draw(key):
        return 0.3 + jax.random.normal(key, (400, 2)) @ root

    reference = sj.GaussianDenoiser(jnp.full(2, 0.3), root.T @ root)
    # Four noises a point, whose residuals are alike: a sandwich that is not clustered is too small.
    found = repeated(
        denoiser, draw, 0.5, jax.random.key(6), reference=reference, num_noises=4, batch_size=4096
    )
    # A standard deviation from 100 repetitions is known to 7 %, and that of products of Gaussians less well.
    for name in ("matrix", "offset", "r_squared", "difference", "nonlinear_residual"):
        estimate = getattr(found, name)
        spread = np.std(estimate.value, axis=0, ddof=1)
        np.testing.assert_allclose(
            np.mean(estimate.standard_error, axis=0), spread, rtol=NUM_SE * 0.08, err_msg=name
        )
    spread = np.std(found.linear_mismatch.value, ddof=1)
    error = np.mean(found.linear_mismatch.standard_error)
    np.testing.assert_allclose(error, spread, rtol=NUM_SE * 0.08)


def test_levels_are_mapped_and_denoisers_belong_to_theirs(x64):
    denoiser, data = tanh_and_data(45, 3, jnp.float64)
    levels = jnp.array([0.2, 2.0])

    def distil(sigma):
        return distill_linear(denoiser, data, sigma, jax.random.key(0), num_noises=4)

    found = eqx.filter_jit(lambda levels: jax.lax.map(distil, levels))(levels)
    alone = distil(2.0)
    for got, expected in zip(jax.tree.leaves(found), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(got[1], expected, rtol=1e-9)
    D = alone.denoiser
    np.testing.assert_allclose(
        D(data[0], 2.0), alone.matrix.value @ data[0] + alone.offset.value, rtol=1e-14
    )
    with pytest.raises(ValueError, match=r"noise level that this affine denoiser belongs to, 2.0"):
        D(data[0], 1.0)
    assert np.all(np.isnan(eqx.filter_jit(D)(data[0], jnp.asarray(1.0))))
    np.testing.assert_allclose(sj.posterior_covariance(D, data[0], 2.0), 4 * alone.matrix.value)


def digits():
    data = pytest.importorskip("sklearn.datasets").load_digits().data / 8 - 1
    return data[np.random.default_rng(0).permutation(1797)[:1500]]


@pytest.mark.exhaustive
def test_digits(x64):
    """The memorizing denoiser's distance to the Gaussian is nonlinear; and inputs of another law give another W."""
    train = digits()
    D, gaussian = sj.EmpiricalDenoiser(train), sj.GaussianDenoiser.fit(train)

    def run(data, sigma):
        return distill_linear(
            D, data, sigma, jax.random.key(0), reference=gaussian, num_noises=4, batch_size=2048
        )

    found = run(train, 1.0)
    # Independent NumPy code, with 6000 pairs as here, but not antithetic: a relative error of W of 0.109, and 98.9 % of the
    # mean square difference nonlinear. The rest is noise of the fit, which is the theorem.
    covariance = gaussian.covariance()
    gains = covariance @ np.linalg.inv(covariance + np.eye(64))
    off = np.linalg.norm(found.matrix.value - gains) / np.linalg.norm(gains)
    np.testing.assert_allclose(off, 0.109, rtol=0.1)
    share = found.nonlinear_residual.value / found.difference.value
    np.testing.assert_allclose(share, 0.989, atol=0.002)
    # Its size is overstated, but not by much: the points are no sample of the law, but all of it.
    assert 0.5 < found.linear_mismatch.value / found.fit_noise < 1
    # Half the contrast is another law of inputs, and has another W: far beyond the noise of the fit.
    half = run(0.5 * train, 1.0)
    squares = np.sum((half.matrix.value - gains) ** 2)
    assert squares > 2 * np.sum(half.matrix.standard_error**2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": jnp.zeros((1, 2))}, "at least 2 points"),
        ({"sigma": -1.0}, "`sigma` must be positive"),
        ({"num_noises": 3}, "`num_noises` must be even, .* got 3"),
        ({"num_noises": 0}, "`num_noises` must be a positive integer"),
        ({"ridge": -0.1}, "`ridge` must be non-negative"),
        ({"data": jnp.zeros((2, 4))}, "`ridge` must be positive where 2 points .* 3 of 4"),
        ({"control": "memory"}, '`control` must be "gaussian" or None'),
        (
            {"reference": sj.GaussianDenoiser(jnp.zeros(3), jnp.eye(3))},
            "`reference` must have dimension 2, like `data`; got 3",
        ),
        ({"denoiser": lambda u, sigma: u[:1]}, "must map one point of shape"),
        ({"batch_size": 0}, "`batch_size` must be a positive integer"),
    ],
)
def test_bad_input(options, message):
    points = jnp.asarray(np.random.default_rng(0).normal(size=(10, 2)))
    arguments = {"denoiser": lambda u, sigma: u, "data": points, "sigma": 1.0, **options}
    with pytest.raises(ValueError, match=message):
        distill_linear(key=jax.random.key(0), **arguments)


def test_affine_denoiser_refuses():
    with pytest.raises(ValueError, match=r"`matrix` must have shape \(d, d\)"):
        AffineDenoiser(jnp.eye(2), jnp.zeros(3), 1.0)
    with pytest.raises(ValueError, match="`sigma` must be positive"):
        AffineDenoiser(jnp.eye(2), jnp.zeros(2), 0.0)
    with pytest.raises(ValueError, match="`matrix` must be finite"):
        AffineDenoiser(jnp.eye(2) * jnp.nan, jnp.zeros(2), 1.0)


def test_ridge_needs_no_more_points_than_directions():
    """With few points the ridge shrinks to the Gaussian denoiser; without control, to zero."""
    rng = np.random.default_rng(8)
    data = jnp.asarray(rng.normal(size=(3, 10)), jnp.float32)
    D = sj.EmpiricalDenoiser(data)
    found = distill_linear(D, data, 1.0, jax.random.key(0), ridge=1e6)
    gaussian = sj.GaussianDenoiser.fit(data)
    covariance = np.asarray(gaussian.covariance())
    gains = covariance @ np.linalg.inv(covariance + np.eye(10))
    np.testing.assert_allclose(found.matrix.value, gains, atol=1e-5)
    assert isinstance(found.matrix, Estimate)

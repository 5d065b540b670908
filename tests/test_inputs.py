"""Numbers in whatever form they come: every public entry takes them with their values, or refuses them."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import smoothjax as sj
from smoothjax import gaussian, interop, learning, smoothing, variance
from smoothjax._checks import as_float_array, as_host_floats, import_optional
from smoothjax.datasets import Dataset

# Arguments of two dtypes are the subject.
pytestmark = pytest.mark.usefixtures("mixed_dtypes")

# Multiples of a half below eight: exact in all dtypes below, and twice them are integers.
POINTS = np.array([[-4.0, 1.0], [6.0, 2.0], [0.0, -3.0], [2.0, 7.0], [-1.0, -6.0], [5.0, -2.0]])
OTHERS = np.array([[1.0, 0.0], [4.0, 3.0], [-3.0, 5.0], [7.0, -5.0]])
IMAGES = np.random.default_rng(0).integers(-4, 5, (4, 3, 4)).astype(float)
KEY = jax.random.key(0)
AFFINE = lambda u, sigma: 0.5 * u  # noqa: E731

# Name: how values come, and the dtype that they are computed in (None: JAX's default).
KINDS = {
    "float16": (lambda x: x.astype(np.float16), np.float32),
    "bfloat16": (lambda x: x.astype(ml_dtypes.bfloat16), np.float32),
    "float16 of JAX": (lambda x: jnp.asarray(x, jnp.float16), np.float32),
    "bfloat16 of JAX": (lambda x: jnp.asarray(x, jnp.bfloat16), np.float32),
    "int8": (lambda x: x.astype(np.int8), None),
    "int64": (lambda x: x.astype(np.int64), None),
    "uint64 of objects": (lambda x: x.astype(np.int64).astype(object), None),
    "Python integers": (lambda x: x.astype(np.int64).tolist(), None),
    "big-endian float32": (lambda x: x.astype(">f4"), np.float32),
    "big-endian float64": (lambda x: x.astype(">f8"), None),
    "big-endian int64": (lambda x: x.astype(">i8"), None),
    "longdouble": (lambda x: x.astype(np.longdouble), None),
}
# Beyond 32 bits, and exact in float32.
WIDE = ("int64", "uint64 of objects", "Python integers", "big-endian int64", "longdouble")

# Functions of points (6, 2), others (4, 2) and a positive number, in whatever form.
DENOISERS = {
    "empirical": lambda x, s: sj.EmpiricalDenoiser(x),
    "sharded": lambda x, s: sj.ShardedDenoiser(x, jax.sharding.Mesh(jax.devices()[:1], ("data",))),
    "streamed": lambda x, s: sj.StreamedDenoiser(
        np.array(x, dtype=None if _has_dtype(x) else np.int64)
    ),
    "truncated": lambda x, s: sj.TruncatedDenoiser(x),
    "gaussian": lambda x, s: sj.GaussianDenoiser.fit(x),
    "dual": lambda x, s: sj.DualGaussianDenoiser(x),
    "mixture": lambda x, s: sj.MixtureDenoiser.fit(x, [0, 0, 0, 1, 1, 1]),
    "point masses": lambda x, s: sj.MixtureDenoiser([1, 2, 1, 2, 1, 2], x, np.zeros((6, 2, 2))),
    "tempered": lambda x, s: sj.TemperedDenoiser(x, 2),
    "perturbed": lambda x, s: sj.GaussianSmoothedDenoiser(x, s, 4, KEY),
    "noise-blind": lambda x, s: sj.NoiseUnconditionedDenoiser(x, [s, _twice(s)]),
    "rescaled": lambda x, s: sj.RescaledDenoiser(sj.GaussianDenoiser([0, 0], np.eye(2)), x[0], s),
    "switched": lambda x, s: sj.SwitchedDenoiser(
        sj.EmpiricalDenoiser(x), sj.GaussianDenoiser.fit(x), s
    ),
    "padded": lambda x, s: sj.EmpiricalDenoiser(*sj.padded_to(x, 8)),
    "dataset": lambda x, s: sj.EmpiricalDenoiser(Dataset("d", x).points),
}


def _has_dtype(x):
    return getattr(x, "dtype", np.dtype(object)).kind != "O"


def _twice(s):
    return s * 2 if hasattr(s, "dtype") else 2 * s


def _line(x):
    return x[:, 0] if hasattr(x, "dtype") else [row[0] for row in x]


def _law(x, s):
    levels = variance.LogUniformLevels(s, _twice(s))
    problem = variance.DenoisingProblem(x, levels)
    return problem.draw(KEY, 3)


FUNCTIONS = {
    **{
        f"{name} denoiser": lambda x, y, s, build=build: build(x, s)(y[0], s)
        for name, build in DENOISERS.items()
    },
    "score": lambda x, y, s: sj.score(sj.EmpiricalDenoiser(x), y[0], s),
    "posterior variance": lambda x, y, s: sj.posterior_variance(sj.EmpiricalDenoiser(x), y[0], s),
    "covariance product": lambda x, y, s: sj.posterior_covariance_product(
        sj.EmpiricalDenoiser(x), y[0], s, y[1]
    ),
    "covariance product of a callable": lambda x, y, s: sj.posterior_covariance_product(
        AFFINE, y[0], s, y[1]
    ),
    "line": lambda x, y, s: sj.LineDenoiser(sj.PiecewiseLinearDenoiser(_line(x), 0.5), y[0], y[1])(
        y[2], s
    ),
    "smoothed line": lambda x, y, s: sj.GaussianSmoothedLineDenoiser(_line(x), s)(y[0][:1], s),
    "box": lambda x, y, s: sj.BoxSmoothedDenoiser([[z] for z in _line(x)], s)(y[0][:1], s),
    "process": lambda x, y, s: sj.EDM().to_noise_coordinates(y[0], s),
    "grid": lambda x, y, s: sj.edm_grid(4, _twice(s), s),
    "flow": lambda x, y, s: sj.gaussian_flow(sj.GaussianDenoiser.fit(x), y[0], _twice(s), s),
    "nearest": lambda x, y, s: sj.nearest_neighbours(y, x, 2),
    "memorised": lambda x, y, s: sj.memorization_fraction(y, x, null=y).ratios,
    "generalization": lambda x, y, s: sj.generalization_score(y, x, null=y).null.value,
    "frechet": lambda x, y, s: sj.frechet_distance(x, y),
    "sliced": lambda x, y, s: sj.sliced_wasserstein(x, y, KEY, num_projections=4).value,
    "wasserstein": lambda x, y, s: sj.wasserstein_1d(_line(x), _line(y)),
    "r2": lambda x, y, s: sj.pearson_r2(x[0], y[0]),
    "rmse": lambda x, y, s: sj.denoiser_rmse(AFFINE, lambda u, s: u, x, s, KEY).value,
    "linearity": lambda x, y, s: sj.linearity_score(lambda u, s: u**2, x, s, KEY).centred.value,
    "effective neighbours": lambda x, y, s: sj.effective_neighbours(x, y[0], s),
    "third cumulant": lambda x, y, s: gaussian.third_cumulant_norm(x),
    "terminal": lambda x, y, s: sj.terminal_mismatch_bound(x, s),
    "minimum error": lambda x, y, s: smoothing.minimum_mean_square_error(_line(x), s),
    "kappa": lambda x, y, s: smoothing.kappa_for_penalty(_line(x), s),
    "smoothing law": lambda x, y, s: (
        smoothing.PiecewiseLinearLaw(_line(x), 0.5, sigma_from=s).sigma_from
    ),
    "training set": lambda x, y, s: _law(x, s),
    "loss": lambda x, y, s: learning.edm_loss(
        learning.PreconditionedDenoiser(lambda v, c: 0.5 * v, 2, s), x, KEY, batch_size=4
    ),
    "host function": lambda x, y, s: interop.from_numpy(lambda u, t: 0.5 * u, 2)(y[0], s),
}


def _in_form(kind, scale=1.0):
    convert, dtype = KINDS[kind]
    plain = jnp.result_type(float) if dtype is None else dtype
    given = [convert(a * scale) for a in (POINTS, OTHERS, np.float64(2.0))]
    # A number of NumPy's is an array here: `np.float64.astype` returns a scalar, whose byte order is native.
    reference = [jnp.asarray(a * scale, plain) for a in (POINTS, OTHERS, np.float64(2.0))]
    return given, reference


@pytest.mark.parametrize("kind", KINDS)
def test_border(kind):
    for scale in (1.0, 2.0**34) if kind in WIDE else (1.0,):
        given, reference = _in_form(kind, scale)
        for one, other in zip(given, reference, strict=True):
            for found in (as_float_array(one, "x"), as_host_floats(one, "x")):
                assert found.dtype == other.dtype and found.dtype.byteorder == "="
                np.testing.assert_array_equal(found, other)


# One for each way in which an entry that passes the border by would go wrong.
SAMPLES = {"bfloat16": 1.0, "big-endian float32": 1.0, "int64": 2.0**34, "Python integers": 2.0**34}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_in_any_form(name):
    function, expected = FUNCTIONS[name], {}
    for kind, scale in SAMPLES.items():
        given, reference = _in_form(kind, scale)
        if scale not in expected:
            expected[scale] = jax.tree.leaves(function(*reference))
        found = jax.tree.leaves(function(*given))
        for one, other in zip(found, expected[scale], strict=True):
            assert one.dtype == other.dtype, (kind, one.dtype)
            np.testing.assert_array_equal(one, other, err_msg=kind)


REFUSED = {
    "masked": (np.ma.array(POINTS, mask=POINTS > 6), "must not be a masked array"),
    "text": ([["1", "2"]], "must be an array of numbers; got dtype <U1"),
    "text among objects": (np.array([["1", 2]], object), "it holds str"),
    "dates": (np.array([["2020-01-01"]], "M8[s]"), "must be an array of numbers"),
    "durations": (
        np.array([[1, 2]], "m8[s]"),
        r"must be an array of numbers; got dtype timedelta64",
    ),
    "complex": (POINTS + 0j, "must be real"),
    "ragged": ([[1.0], [1.0, 2.0]], "must be an array of numbers; got list"),
    "none": (None, "must be an array of numbers; got NoneType"),
    "too large": ([[10**400]], "int too large"),
    "too large for its dtype": (np.array([[np.longdouble("1e400")]]), "must be finite"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_forms(name):
    given, message = REFUSED[name]
    builders = [sj.EmpiricalDenoiser, sj.GaussianDenoiser.fit, lambda x: Dataset("d", x)]
    if _has_dtype(given) and name != "too large for its dtype":
        builders.append(sj.StreamedDenoiser)
    mesh = jax.sharding.Mesh(jax.devices()[:1], ("data",))
    for build in (*builders, lambda x: sj.ShardedDenoiser(x, mesh)):
        with pytest.raises(ValueError, match=message):
            build(given)


def test_masked_slices_of_a_stream():
    class Variable:  # As of netCDF4, whose slices are masked arrays, with gaps or without.
        shape, dtype = POINTS.shape, POINTS.dtype

        def __init__(self, mask):
            self.values = np.ma.array(POINTS, mask=mask)

        def __getitem__(self, rows):
            return self.values[rows]

    u = np.zeros((1, 2), np.float32)
    whole = sj.StreamedDenoiser(Variable(False)).denoise(u, 2.0)
    np.testing.assert_allclose(whole[0], sj.EmpiricalDenoiser(POINTS)(u[0], 2.0), rtol=1e-5)
    with pytest.raises(ValueError, match="must not be a masked array"):
        sj.StreamedDenoiser(Variable(POINTS > 6)).denoise(u, 2.0)


def test_booleans_are_no_numbers():
    D = sj.EmpiricalDenoiser(POINTS)
    for bad in (True, np.bool_(True), jnp.array(True)):
        for call in (
            lambda s: D(POINTS[0], s),
            lambda s: sj.TemperedDenoiser(POINTS, s),
            lambda s: sj.edm_grid(4, 2.0, s),
            lambda s: sj.EDM().noise_level(s),
        ):
            with pytest.raises(ValueError, match="must be a number; got a boolean"):
                call(bad)
    # Sets of points of zeros and ones are data like others.
    np.testing.assert_array_equal(sj.EmpiricalDenoiser([[True], [False]]).data, [[1.0], [0.0]])


def test_narrow_floats_that_are_traced():
    D = sj.EmpiricalDenoiser(POINTS.astype(np.float16))
    u = jnp.asarray(OTHERS[0], jnp.float16)
    found = jax.jit(lambda u, s: D(u, s))(u, jnp.float16(2))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, D(u, 2.0), rtol=1e-6)
    built = jax.jit(lambda x: sj.EmpiricalDenoiser(x)(u, 2.0))(jnp.asarray(POINTS, jnp.bfloat16))
    assert built.dtype == jnp.float32
    np.testing.assert_allclose(built, found, rtol=1e-5)


def test_python_numbers_of_any_size():
    huge = 2**63
    D = sj.EmpiricalDenoiser([[-huge], [huge]])
    np.testing.assert_allclose(D([huge], 2**60), [float(huge)], rtol=1e-6)
    np.testing.assert_allclose(sj.edm_grid(2, huge, 1)[:2], [float(huge), 1.0], rtol=1e-6)
    with pytest.raises(ValueError, match="`sigma` must be finite; got an integer too large"):
        D([0], 10**400)


def test_missing_optional_package_says_how_to_install_it():
    with pytest.raises(ImportError, match=r"pip install 'smoothjax\[plot\]'"):
        import_optional("a_package_that_does_not_exist", extra="plot")


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (sj.regimes.speciation_level, "speciation_level"),
        (lambda x: sj.MixtureDenoiser.fit(x, num_components=2), "fit"),
        (lambda x: sj.regimes.collapse_level(x, KEY), "collapse_level"),
    ],
)
def test_what_runs_on_the_host_says_so_where_it_is_traced(function, name):
    with pytest.raises(ValueError, match=rf"`data` of `{name}` must be known.*`jax.jit`"):
        jax.jit(function)(jnp.asarray(POINTS))


def test_a_function_of_the_user_raises_its_own_error_where_it_is_traced():
    on_host = lambda u, sigma: jnp.asarray(np.asarray(u))  # noqa: E731
    with pytest.raises(jax.errors.TracerArrayConversionError):
        jax.jit(lambda u: sj.score(on_host, u, 1.0))(jnp.asarray(POINTS[0]))

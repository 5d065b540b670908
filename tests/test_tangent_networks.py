"""Networks of finite width against their tangent kernels, and the experiments that retrain them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from smoothjax import learning, variance
from smoothjax.variance import OutputDenoiser, TangentNetwork, gradient_descent

pytest.importorskip("xarray")
pytest.importorskip("tqdm")

from smoothjax.experiments._variance import network_closure as closure
from smoothjax.experiments._variance import network_figures as plots
from smoothjax.experiments._variance import tangent_kernel_networks as networks

# Compiles for minutes in all: not a second time in the suite at default precision.
pytestmark = pytest.mark.slow

SQUARE = np.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])


class Scaled(eqx.Module):
    """An embedding with an array of its own."""

    factors: jax.Array

    def __call__(self, u, sigma):
        return self.factors * jnp.append(u, sigma)


def denoising_problem(prediction="eps", dtype=np.float64):
    levels = variance.LogUniformLevels(0.5, 2.0)
    return variance.DenoisingProblem(SQUARE.astype(dtype), levels, prediction=prediction)


def test_network_written_out(dtype):
    factors = jnp.array([1.0, -0.5, 2.0], dtype)
    kernel = variance.ReLUTangentKernel(3, Scaled(factors), bias_scale=0.3)
    network = TangentNetwork(kernel, 2, 5, key=jax.random.key(0), dtype=dtype)
    u, sigma = np.array([0.4, -1.0], dtype), np.array(0.7, dtype)
    x = np.asarray(factors, float) * np.append(u, sigma)
    for i, (w, b) in enumerate(zip(network.weights, network.biases, strict=True)):
        gain = 2 if i == 1 else 1
        x = np.sqrt(gain / len(x)) * np.asarray(w, float) @ x + 0.3 * np.asarray(b, float)
        x = x if i == 2 else np.maximum(x, 0)
    output = network(jnp.asarray(u), jnp.asarray(sigma))
    assert output.dtype == dtype
    np.testing.assert_allclose(output, x, rtol=50 * np.finfo(dtype).eps)
    # "eps": D = u - sigma f.
    denoiser = OutputDenoiser(network, 2, prediction="eps")
    found = denoiser(jnp.asarray(u), jnp.asarray(sigma))
    np.testing.assert_allclose(found, u - sigma * x, rtol=50 * np.finfo(dtype).eps)
    # The embedding is not trained.
    slopes = eqx.filter_grad(lambda model: jnp.sum(model(u, sigma)))(network)
    assert np.all(np.asarray(slopes.kernel.embedding.factors) == 0)
    assert all(np.any(np.asarray(w) != 0) for w in slopes.weights)
    with pytest.raises(ValueError, match="`width` must be a positive integer; got 0"):
        TangentNetwork(kernel, 2, 0, key=jax.random.key(0))


def test_network_has_the_kernel_it_was_made_of(x64):
    """In the mean over initial weights, at any width for two layers; outputs are independent and alike."""
    kernel = variance.ReLUTangentKernel(2, Scaled(jnp.array([1.0, 0.5, 2.0])), bias_scale=0.6)
    places = [(jnp.array([0.5, 0.1]), 0.7), (jnp.array([-1.0, 0.3]), 2.0)]
    places = [(u, jnp.asarray(s)) for u, s in places]
    pairs = [(places[0], places[0]), (places[0], places[1])]
    num = 4000

    @jax.jit
    def of_network(key):
        network = TangentNetwork(kernel, 2, 4, key=key)
        tangent = variance.EmpiricalTangentKernel(network)
        products = [jnp.outer(network(*a), network(*b)).ravel() for a, b in pairs]
        return jnp.stack([tangent(*a, *b) for a, b in pairs]), jnp.concatenate(products)

    tangent, products = jax.vmap(of_network)(jax.random.split(jax.random.key(0), num))
    initial = [float(kernel.initial_covariance(*a, *b)) * np.eye(2).ravel() for a, b in pairs]
    expected = [[kernel(*a, *b) for a, b in pairs], np.concatenate(initial)]
    for values, mean in zip((tangent, products), expected, strict=True):
        error = np.asarray(values).std(0, ddof=1) / np.sqrt(num)
        assert np.all(np.abs(np.mean(values, 0) - np.array(mean)) < 4 * error)


class Linear(eqx.Module):
    """A model linear in its weights, whose tangent kernel is `phi . phi'` and does not move."""

    weights: jax.Array

    def __call__(self, u, sigma):
        return self.weights @ linear_features(u, sigma)


def linear_features(u, sigma):
    return jnp.stack([jnp.ones_like(sigma), u[0], u[1], jnp.tanh(u[0]), sigma, u[1] * sigma]) / 3


class LinearKernel(eqx.Module):
    def __call__(self, u, sigma, v, tau):
        return jnp.dot(linear_features(u, sigma), linear_features(v, tau))

    def initial_covariance(self, u, sigma, v, tau):
        return 4.0 * self(u, sigma, v, tau)  # of weights of standard deviation 2


@pytest.mark.parametrize("prediction", ["x0", "eps", "score"])
def test_gradient_descent_on_a_linear_model(prediction, x64):
    problem = denoising_problem(prediction)
    P, counts = 12, (1, 100, 200)
    key = jax.random.key(3)
    triples = problem.draw(key, P)
    x, u, sigma = (np.asarray(a) for a in triples)
    start = np.asarray(jax.random.normal(jax.random.key(4), (2, 6)))
    trained = eqx.filter_jit(
        lambda start, x, step: gradient_descent(
            problem, Linear(start), triples._replace(x=x), step_size=step, num_steps=counts
        )
    )
    found = trained(jnp.asarray(start), triples.x, jnp.asarray(0.05)).weights
    # Written out: loss (1/2P) sum w |y - W phi|^2 of D = b + c W phi against x, with w = c^2 / sigma^2.
    scale = {"x0": np.ones(P), "eps": -sigma, "score": sigma**2}[prediction]
    base = 0 if prediction == "x0" else u
    features = np.asarray(jax.vmap(linear_features)(u, sigma))
    y, w = (x - base) / scale[:, None], (scale / sigma) ** 2
    weights = start
    for n in range(counts[-1] + 1):
        if n in counts:
            np.testing.assert_allclose(found[counts.index(n)], weights, rtol=1e-11, atol=1e-12)
        weights = weights + 0.05 / P * ((w[:, None] * (y - features @ weights.T)).T @ features)

    # And from zero on posterior means, small steps are the flow of the same duration: the error is of first order.
    law = variance.KernelLaw.gradient_flow(
        problem, LinearKernel(), P, key, duration=jnp.asarray(2.0)
    )
    place = jnp.array([0.3, -0.8]), jnp.asarray(0.9)
    expected = np.asarray(law.mean_denoiser(*place))
    means = jax.vmap(problem.data)(u, sigma)
    errors = []
    for i in (1, 2):
        run = trained(jnp.zeros((2, 6)), means, jnp.asarray(2.0 / counts[i]))
        model = Linear(run.weights[i])
        errors.append(OutputDenoiser(model, 2, prediction=prediction)(*place) - expected)
    assert np.all(np.abs(errors[0]) < 0.1 * np.abs(expected))
    # The next order is smaller by omega step / P, at most 3 for these features and weights times 0.02.
    np.testing.assert_allclose(errors[0] / errors[1], 2, rtol=0.06)


def test_gradient_descent_asks_for_what_it_needs():
    problem = denoising_problem(dtype=np.float32)
    model, triples = Linear(jnp.ones((2, 6), jnp.float32)), problem.draw(jax.random.key(0), 4)
    for counts in ((), (0, 3), (5, 5)):
        with pytest.raises(ValueError, match="`num_steps` must be"):
            gradient_descent(problem, model, triples, step_size=0.1, num_steps=counts)
    with pytest.raises(ValueError, match="`step_size` must be positive"):
        gradient_descent(problem, model, triples, step_size=0.0, num_steps=(1,))
    settings: Any = {"step_size": jnp.asarray(1e4), "num_steps": (200,)}
    with pytest.raises(RuntimeError, match="Training diverged"):
        gradient_descent(problem, model, triples, **settings)
    inside = eqx.filter_jit(gradient_descent)(problem, model, triples, **settings)
    assert not np.any(np.isfinite(jax.tree.leaves(inside)[0]))


def test_wide_networks_follow_their_kernels(x64):
    """Their own kernels up to what moves as they train; the limiting one up to one over the root of the width.

    Of the former the smooth part is of the order of the inverse width n. Of n units some `sqrt(n)` switch on or off at a
    training point, each an error of `1 / n` with the random sign of its output weight: `n**-0.75` together.
    """
    problem = denoising_problem()
    kernel, P, step, num, seeds = variance.ReLUTangentKernel(2), 12, 0.05, 40, 64
    triples = problem.draw(jax.random.key(0), P)
    places = jnp.array([[0.3, -0.8], [2.0, 0.5]]), jnp.array([0.9, 0.6])
    roots = jax.vmap(problem.root_weight)(triples.u, triples.sigma)
    targets = (jax.vmap(problem.target)(*triples) / roots[:, None]).ravel()  # y, P d numbers
    weights = jnp.repeat(roots**2, 2)
    u, sigma = (jnp.concatenate(pair) for pair in zip(triples[1:], places, strict=True))

    def steps_on(gram, start):
        # Written out in outputs instead of weights, over inputs and places.
        def one(_, f):
            return f + step / P * gram[:, : 2 * P] @ (weights * (targets - f[: 2 * P]))

        return jax.lax.fori_loop(0, num, one, start)[2 * P :]

    limit = jax.vmap(lambda a, s: jax.vmap(lambda b, t: kernel(a, s, b, t))(u, sigma))(u, sigma)
    limit = jnp.kron(limit, jnp.eye(2))

    def deviations(width, key):
        network = TangentNetwork(kernel, 2, width, key=key)
        trained = gradient_descent(
            problem,
            network,
            triples,
            step_size=step,
            num_steps=(num,),
            observe=lambda model: jax.vmap(model)(*places).ravel(),
        )[0]
        parameters, static = eqx.partition(network, eqx.is_inexact_array)
        outputs = lambda p: jax.vmap(eqx.combine(p, static))(u, sigma).ravel()  # noqa: E731
        jacobian = jax.tree.leaves(jax.jacrev(outputs)(parameters))
        rows = jnp.concatenate([j.reshape(len(u) * 2, -1) for j in jacobian], axis=1)
        start = outputs(parameters)
        moved = jnp.mean((trained - start[2 * P :]) ** 2)
        own, infinite = (steps_on(gram, start) - trained for gram in (rows @ rows.T, limit))
        return jnp.stack([jnp.mean(own**2), jnp.mean(infinite**2), moved])

    keys = jax.random.split(jax.random.key(1), seeds)
    narrow, wide = (
        np.mean(jax.jit(lambda keys, w=w: jax.lax.map(lambda k: deviations(w, k), keys))(keys), 0)
        for w in (64, 1024)
    )
    ratios = np.sqrt(narrow / wide)
    # Standard errors of the root mean squares over 64 networks, as measured: 0.13 and 0.08, 0.06 and 0.07; 3 of
    # these together are factors of 1.6 and 1.35.
    assert 16**0.75 / 1.6 < ratios[0] < 16 * 1.6, ratios
    assert 4 / 1.35 < ratios[1] < 4 * 1.35, ratios
    assert np.sqrt(wide[0] / wide[2]) < 0.01, wide  # the change itself, to a per cent


def test_error_of_covariances_and_its_floor():
    rng = np.random.default_rng(0)
    covariance = np.diag([3.0, 1.0, 0.2])
    num, repetitions = 40, 2000
    draws = rng.standard_normal((repetitions, num, 3)) * np.sqrt(np.diag(covariance))
    found = [networks.compare_covariances(networks.scatter(x), covariance[None]) for x in draws]
    one = found[0]
    np.testing.assert_allclose(one["covariance"], np.cov(draws[0].T), rtol=1e-12)
    np.testing.assert_allclose(one["trace_ratio"], np.trace(np.cov(draws[0].T)) / 4.2, rtol=1e-12)
    # Of a Wishart matrix: E |error|^2 = (|C|^2 + (tr C)^2) / (n - 1).
    square = np.sum(covariance**2)
    expected = (square + 4.2**2) / (num - 1) / square
    errors, floors = (np.array([f[name] for f in found]) ** 2 for name in ("error", "floor"))
    assert abs(errors.mean() - expected) < 4 * errors.std() / np.sqrt(repetitions)
    # The floor's own expectation is smaller by 1 / n: deviations are from the mean of the sample.
    slack = 4 * floors.std() / np.sqrt(repetitions) + 2 * expected / num
    assert abs(floors.mean() - expected) < slack
    ratios = np.array([f["trace_ratio"] for f in found])
    errors = np.array([f["trace_ratio_se"] for f in found])
    np.testing.assert_allclose(np.sqrt(np.mean(errors**2)), ratios.std(), rtol=0.1)
    # A sample on either side: the squares add.
    both = networks.compare_covariances(networks.scatter(draws[0]), networks.scatter(draws[1]))
    other = networks.compare_covariances(networks.scatter(draws[1]), covariance[None])
    sizes = [np.linalg.norm(f["predicted"]) for f in (one, other, both)]
    np.testing.assert_allclose(
        (both["floor"] * sizes[2]) ** 2,
        (one["floor"] * sizes[0]) ** 2 + (other["floor"] * sizes[1]) ** 2,
        rtol=1e-12,
    )


@pytest.mark.exhaustive
def test_predictions_are_exact_for_linear_models(x64):
    """Every source by itself, of the same pipeline with models whose kernel does not move."""
    problem, kernel = denoising_problem(), LinearKernel()
    P, num, step, counts = 10, 3000, 0.02, (25, 200)
    init_key, design_key, prediction_key, *keys = jax.random.split(jax.random.key(0), 6)
    keys = [jax.random.split(key, num) for key in keys]
    places = jnp.array([[0.0, 0.0], [1.5, -0.5]]), jnp.array([0.6, 1.5])
    start = lambda key: Linear(2.0 * jax.random.normal(key, (2, 6)))  # noqa: E731

    @jax.jit
    def train(init_keys, triples):
        def one(key, triples):
            at_places = lambda model: jax.vmap(  # noqa: E731
                OutputDenoiser(model, 2, prediction="eps")
            )(*places).ravel()
            return gradient_descent(
                problem, start(key), triples, step_size=step, num_steps=counts, observe=at_places
            )

        return jax.vmap(one)(init_keys, triples)

    traces = {}
    for source in networks.SOURCES:
        members = networks.random_parts(problem, source, P, init_key, design_key, keys)
        outputs = np.asarray(train(*members))
        for i, count in enumerate(counts):
            sets = source == "training sets"
            predicted = networks.predicted_parts(
                problem,
                kernel,
                source,
                P,
                jax.random.split(prediction_key, 1000) if sets else design_key,
                start(init_key) if sets else None,
                places,
                jnp.asarray(step * count),
            )
            found = networks.compare_covariances(networks.scatter(outputs[:, i]), predicted)
            # The floor is the root mean square error. Of one effective direction three times it have probability 0.003.
            # Steps of 0.02 leave a fitted mode of eigenvalue up to 2 wrong by up to 2 % / e, its square by twice that.
            assert found["error"] < 3 * found["floor"] + 0.015, (source, count, found)
            assert found["floor"] < 0.12
            traces[source, count] = np.trace(found["covariance"])
    # The initial function is forgotten while the targets' noise is learned.
    assert traces["initialisations", 200] < 0.5 * traces["initialisations", 25]
    assert traces["targets", 200] > 2 * traces["targets", 25]


def test_what_members_share(x64):
    problem, P, num = denoising_problem(), 6, 4000
    init_key, design_key, *keys = jax.random.split(jax.random.key(1), 5)
    keys = [jax.random.split(key, num) for key in keys]
    parts = {
        s: networks.random_parts(problem, s, P, init_key, design_key, keys)
        for s in networks.SOURCES
    }
    same = {
        s: (
            len(np.unique(jax.random.key_data(k), axis=0)),
            *(np.ptp(a, axis=0).max() == 0 for a in t),
        )
        for s, (k, t) in parts.items()
    }
    assert same == {
        "targets": (1, False, True, True),
        "initialisations": (num, True, True, True),
        "training sets": (1, False, False, False),
    }
    # Targets drawn anew have the posterior's mean, to four standard errors: coordinates are -1 or 1.
    x, u, sigma = (np.asarray(a) for a in parts["targets"][1])
    expected = np.asarray(jax.vmap(problem.data)(u[0], sigma[0]))
    assert np.all(np.abs(x.mean(0) - expected) < 4 * np.sqrt((1 - expected**2) / num))


@pytest.mark.exhaustive
def test_tangent_kernel_networks_resume(tmp_path):
    settings = {
        "widths": (64,),
        "num_steps": (5, 20),
        "num_train": 16,
        "num_models": 40,
        "num_designs": 20,
        "out": str(tmp_path),
        "progress": False,
    }
    found = networks.tangent_kernel_networks(**settings)
    np.testing.assert_allclose(found.time, [0.5, 2.0])
    # Hardly trained, networks spread as their initial law does, which is known: u + sigma f, of independent outputs.
    kernel = variance.ReLUTangentKernel(2)
    u, sigma = found.place_u.values, found.place_sigma.values
    start = jnp.asarray(sigma[0]) ** 2 * kernel.initial_covariance(u[0], sigma[0], u[0], sigma[0])
    short = found.sel(source="initialisations").isel(time=0, width=0)
    assert np.all(np.diag(short.predicted)[:2] < float(start))
    assert float(short.error) < 3 * float(short.floor) + 1 / np.sqrt(64)
    figure = plots.plot_tangent_kernel_networks(found)
    assert len(figure.axes) == 6
    drawn = figure.axes[1].lines[2].get_ydata()
    np.testing.assert_allclose(drawn, found.error.isel(source=1, time=1))
    assert figure.axes[0].get_ylim()[1] > found.error.max()  # of all sources

    # A folder with one part missing computes that part alone, and to the same numbers.
    (tmp_path / "parts" / "width-64-targets.npz").unlink()
    kept = tmp_path / "parts" / "width-64-initialisations.npz"
    written = kept.stat().st_mtime_ns
    assert networks.tangent_kernel_networks(**settings).identical(found)
    assert kept.stat().st_mtime_ns == written


def test_shape_of_normal_samples():
    num, draws = 100, closure.NULL_DRAWS
    skewness, kurtosis, distance = closure.normal_shapes(num, seed=0)
    # Fisher's exact moments. A quantile at 2.5 % is known to 2.7 standard deviations over the root of the draws, and
    # skewness is normal to a few per cent of its standard deviation.
    spread = np.sqrt(6 * (num - 2) / (num + 1) / (num + 3))
    slack = spread * (4 * 2.7 / np.sqrt(draws) + 0.05)
    np.testing.assert_allclose(skewness, spread * stats.norm.ppf(closure.QUANTILES), atol=slack)
    # Skewed to the right: the median is below the mean.
    assert kurtosis[0] < kurtosis[1] < -6 / (num + 1) < kurtosis[2]
    # Lilliefors 1967: the upper 5 % of the distance begin at 0.886 over the root of the number, the upper 1 % at 1.031.
    assert 0.886 < distance[2] * np.sqrt(num) < 1.031


def test_masses_of_regions():
    samples = jnp.array([-2.0, -1.24, -0.8, -0.5, -0.26, 0.2, 0.5, 1.26])
    found = closure.region_masses(samples, jnp.array([-1.0, 0.0, 1.0]))
    np.testing.assert_allclose(found, np.array([3, 3, 2]) / 8)


@pytest.mark.parametrize(
    "dtype", [pytest.param("float32", marks=pytest.mark.exhaustive), "float64"], indirect=True
)
def test_networks_on_triples_see_the_same_inputs(dtype):
    data = np.array([[-1.0], [0.0], [1.0]], dtype)
    levels = variance.LogUniformLevels(0.1, 3.0)
    problem = variance.DenoisingProblem(data, levels, prediction="eps")
    keys = jax.random.split(jax.random.key(0), 3)
    for exact in (False, True):
        models, losses = closure.train_on_triples(
            problem,
            keys,
            jnp.asarray(1e-3),
            num_train=20,
            exact=exact,
            width=8,
            num_layers=2,
            num_steps=1,
        )
        assert models.network.layers[0].weight.dtype == dtype

        # The first loss is that of the initial network, on triples of its own key.
        @jax.jit
        def expected(key, exact=exact):
            init, draw, _ = jax.random.split(key, 3)
            model = learning.NetworkDenoiser.relu(1, 8, 2, key=init)
            x, u, sigma = problem.draw(draw, 20)
            x = jax.vmap(problem.data)(u, sigma) if exact else x
            D = jax.vmap(model)(u, sigma)
            return jnp.mean(jnp.sum((D - x) ** 2, 1) / sigma**2)

        # Weights are drawn in JAX's default dtype.
        np.testing.assert_allclose(losses, jax.vmap(expected)(keys), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_network_closure_resumes(tmp_path):
    settings = {
        "num_train": (16,),
        "num_models": 6,
        "num_steps": 20,
        "width": 8,
        "num_samples": 40,
        "out": str(tmp_path),
        "progress": False,
    }
    found = closure.network_closure(**settings)
    # The exact flow ends within 5 of the last noise levels of the points.
    np.testing.assert_allclose(found.exact_mass, [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(found.mass.sum("region"), 1, rtol=1e-6)
    np.testing.assert_allclose(found["std"], found.denoised.std("model", ddof=1), rtol=1e-4)
    np.testing.assert_allclose(
        found.mass_se, found.mass.std("model", ddof=1) / np.sqrt(6), rtol=1e-4, atol=1e-7
    )
    place = found.denoised.sel(targets="exact", num_train=16, sigma=0.3, u=0.5).values
    np.testing.assert_allclose(
        found.skewness.sel(targets="exact", num_train=16, sigma=0.3, u=0.5),
        stats.skew(place.astype(float)),
        rtol=1e-3,
    )
    figure = plots.plot_network_closure(found)
    assert len(figure.axes) == 6
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), found.skewness[0, 0, 0])
    assert closure.network_closure(**settings).identical(found)

"""Workloads of whole sampling runs: which image each noise ends on, and what precision costs."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from denoiser_workloads import first_call
from empirical_denoiser import Call, PyTorch, in_turn, torch
from machine import Row, on_torch, rng, row, torch_device

import smoothjax as sj
from smoothjax.denoisers._truncated.truncated import certified_batch

SIGMA_MAX, SIGMA_MIN = 80.0, 0.002
REFERENCE_STEPS = 256


def draw(denoiser: sj.TruncatedDenoiser, num: int, key: Any) -> jax.Array:
    """The library's samples, as a user who wants them quickly would draw them."""
    return sj.replay(denoiser, key, num, batch_size=num).points


def adaptive(denoiser: sj.AbstractDenoiser, num: int, key: Any) -> jax.Array:
    solver = sj.ExponentialMultistep()
    return sj.sample(denoiser, key, num, solver=solver, rtol=1e-2, batch_size=num)


def starts(denoiser: sj.AbstractDenoiser, key: Any, num: int) -> jax.Array:
    """States at the largest noise that `sample` and `replay` start from."""
    noise = sj.initial_noise(key, num, denoiser.dim, dtype=jnp.float32)
    return jax.vmap(lambda z: sj.initial_state(denoiser, z, jnp.float32(SIGMA_MAX)))(noise)


def torch_heun(
    data: np.ndarray, states: np.ndarray, steps: int, moves: np.ndarray | None = None
) -> Callable[[], Any]:
    """EDM's Heun sampler with the dense denoiser in PyTorch, from the given states.

    With `moves`, of the denoiser averaged over these perturbations of the state.
    """
    count = 1 if moves is None else len(moves)
    dense = PyTorch(data, count * len(states), torch_device())
    apart = None if moves is None else torch.from_numpy(moves).to(torch_device())

    def one(u: Any, sigma: float) -> Any:
        if apart is None:
            return dense(u, sigma)
        moved = (u[:, None] + apart).reshape(-1, u.shape[1])
        return dense(moved, sigma).reshape(len(u), count, -1).mean(1)

    start = torch.from_numpy(states).to(torch_device())
    levels = [float(level) for level in sj.edm_grid(steps, SIGMA_MAX, SIGMA_MIN)]

    def run() -> Any:
        u = start.clone()
        with torch.inference_mode():
            for high, low in itertools.pairwise(levels[:-1]):
                first = (u - one(u, high)) / high
                there = u + (low - high) * first
                u = u + (low - high) * 0.5 * (first + (there - one(there, low)) / low)
            return one(u, levels[-2])

    return on_torch(run)


def nearest(data: np.ndarray, x: Any) -> np.ndarray:
    """Index of the training point nearest to each sample."""
    _, index = sj.nearest_neighbours(jnp.asarray(x), jnp.asarray(data), 1)
    return np.asarray(index)[:, 0]


def agreement(data: np.ndarray, reference: np.ndarray, found: Any) -> Row:
    """How many samples end on the reference's training point, and the root mean square distance from its samples."""
    found = np.asarray(found, np.float32)
    same = float(np.mean(nearest(data, found) == nearest(data, reference)))
    distance = float(np.sqrt(np.mean(np.sum((found - reference) ** 2, 1))))
    return {"error": 1 - same, "error_of": "samples on another image", "distance": distance}


def sampling_rows(data: np.ndarray, quick: bool, notes: list[str]) -> Iterator[Row]:
    """256 samples, whole runs, beside PyTorch with EDM's 18 steps."""
    num, rounds, steps = (8, 2, 64) if quick else (256, 3, REFERENCE_STEPS)
    key = jax.random.key(0)
    dense, truncated = sj.EmpiricalDenoiser(data), sj.TruncatedDenoiser(data)
    points = np.asarray(dense.data)
    states = np.asarray(starts(dense, key, num))
    reference = np.asarray(sj.sample(dense, key, num, steps=steps))
    again = sj.sample(dense, key, num, steps=steps // 2)
    doubt = agreement(points, reference, again)["error"]
    notes.append(
        f"Reference: EDM-Heun with {steps} levels; with half as many, {doubt:.2%} of the noises end on another image."
    )
    calls: dict[str, Call] = {
        "smoothjax replay": lambda: jax.block_until_ready(draw(truncated, num, key)),
        "smoothjax dense, adaptive": lambda: jax.block_until_ready(adaptive(dense, num, key)),
        "smoothjax dense, EDM-Heun 18": lambda: jax.block_until_ready(
            sj.sample(dense, key, num, steps=18, batch_size=num)
        ),
    }
    if torch is None:
        notes.append("PyTorch is not installed: no rows of it.")
    else:
        calls["PyTorch eager, EDM-Heun 18"] = torch_heun(points, states, 18)
    first = {name: first_call(call) for name, call in calls.items()}
    for name, seconds in in_turn(calls, rounds, rng(), 0).items():
        found = calls[name]()
        found = found.cpu() if "PyTorch" in name else found
        case = {"n": len(points), "d": points.shape[1], "samples": num, "doubt": doubt}
        more: Row = {"first_seconds": first[name], **agreement(points, reference, found)}
        if "PyTorch" not in name:
            more["compile_seconds"] = max(0.0, first[name] - float(np.median(seconds)))
        yield row(name, seconds, kind="run", **case, **more)


def smoothed_sampling_rows(data: np.ndarray, quick: bool, notes: list[str]) -> Iterator[Row]:
    """Whole runs of a smoothed training set with 64 perturbations, beside its definition in PyTorch with EDM's 18 steps."""
    num, draws, rounds, steps = (4, 4, 2, 64) if quick else (64, 64, 3, REFERENCE_STEPS)
    key, smoothing = jax.random.key(0), 0.2
    denoiser = sj.GaussianSmoothedDenoiser(data, smoothing, draws, jax.random.key(1))
    base: Any = denoiser.base
    points = np.asarray(base.data)
    states = np.asarray(starts(denoiser, key, num))
    reference = np.asarray(sj.sample(denoiser, key, num, steps=steps, batch_size=num))
    calls: dict[str, Call] = {
        "smoothjax replay": lambda: jax.block_until_ready(
            sj.replay(denoiser, key, num, batch_size=num).points
        ),
        "smoothjax, EDM-Heun 18": lambda: jax.block_until_ready(
            sj.sample(denoiser, key, num, steps=18, batch_size=num)
        ),
    }
    if torch is None:
        notes.append("PyTorch is not installed: no rows of it.")
    else:
        moves = np.float32(smoothing) * np.asarray(denoiser.perturbations)
        calls["PyTorch eager, EDM-Heun 18"] = torch_heun(points, states, 18, moves)
    first = {name: first_call(call) for name, call in calls.items()}
    for name, seconds in in_turn(calls, rounds, rng(), 0).items():
        found = calls[name]()
        found = np.asarray(found.cpu() if "PyTorch" in name else found)
        apart = np.linalg.norm(found - reference, axis=1)
        case = {"n": len(points), "d": points.shape[1], "samples": num, "draws": draws}
        more: Row = {"first_seconds": first[name], "error": float(np.median(apart))}
        if "PyTorch" not in name:
            more["compile_seconds"] = max(0.0, first[name] - float(np.median(seconds)))
        more["error_of"] = f"median distance from EDM-Heun with {steps} levels"
        yield row(name, seconds, kind="run", **case, **more)


@eqx.filter_jit
def of_open(denoiser: sj.TruncatedDenoiser, u: Any, sigma: Any, is_open: Any) -> jax.Array:
    """What `replay` calls at a noise level, for the samples whose training point is not settled."""
    return certified_batch(denoiser, u, jnp.full(len(u), sigma), is_open)[0].value


@eqx.filter_jit
def of_all(denoiser: sj.EmpiricalDenoiser, u: Any, sigma: Any) -> jax.Array:
    return jax.vmap(denoiser, (0, None))(u, sigma)


def below_rows(data: np.ndarray, quick: bool) -> Iterator[Row]:
    """What the noise levels below one take of a trajectory, on EDM's 18 levels: the dense denoiser's and `replay`'s calls.

    There `replay` calls the certified denoiser for the samples that are not settled yet, as it does here; the states of
    these are training points plus noise.
    """
    truncated = sj.TruncatedDenoiser(data)
    points = np.asarray(truncated.data)
    levels = np.asarray(sj.edm_grid(18, SIGMA_MAX, SIGMA_MIN))[:-1]
    below, rounds = levels[levels < 1], 2 if quick else 5
    for num in (8,) if quick else (64, 256):
        run = sj.replay(truncated, jax.random.key(0), num, levels=levels, batch_size=num)
        rows, settled = np.asarray(run.rows), np.asarray(run.settled)
        total: dict[str, np.ndarray] = {}
        for sigma in map(np.float32, below):
            is_open = jnp.asarray(settled <= sigma * np.float32(1.0001))
            clean = points[np.where(rows < 0, 0, rows)]
            u = jnp.asarray(clean + sigma * rng().standard_normal(clean.shape, np.float32))
            level = jnp.float32(sigma)
            calls: dict[str, Call] = {
                "smoothjax dense": lambda u=u, s=level: of_all(
                    truncated.exact, u, s
                ).block_until_ready(),
                "smoothjax certified": lambda u=u, s=level, o=is_open: of_open(
                    truncated, u, s, o
                ).block_until_ready(),
            }
            if not bool(jnp.any(is_open)):
                # Nothing is called then.
                del calls["smoothjax certified"]
                total.setdefault("smoothjax certified", np.zeros(rounds))
            for call in calls.values():
                first_call(call)
            for name, seconds in in_turn(calls, rounds, rng()).items():
                total[name] = total.get(name, 0) + seconds
        case = {"n": len(points), "d": points.shape[1], "samples": num, "levels": len(below)}
        case["open"] = float(np.mean(settled[:, None] <= below))
        for name, seconds in total.items():
            yield row(name, seconds, kind="below", **case)


@eqx.filter_jit
def followed(denoiser: sj.AbstractDenoiser, u: jax.Array, solver: Any, rtol: Any, levels: Any):
    """Endpoints of the flow with a last call of the denoiser, and calls of the denoiser a sample."""

    def adaptive(u: jax.Array) -> Any:
        end = sj.flow_solution(
            denoiser, u, SIGMA_MAX, SIGMA_MIN, solver=solver, rtol=rtol, throw=False
        )
        return denoiser(end.value, jnp.float32(SIGMA_MIN)), end.num_evaluations + 1

    def on_grid(u: jax.Array) -> Any:
        end = sj.flow_solution(
            denoiser, u, SIGMA_MAX, 0.0, solver=solver, levels=levels, throw=False
        )
        return end.value, end.num_evaluations

    return jax.vmap(adaptive if levels is None else on_grid)(u)


def precision_rows(data: np.ndarray, quick: bool, notes: list[str], bar: Any) -> Iterator[Row]:
    """Error against calls of the denoiser and against time, for solvers at several tolerances and grids."""
    num, rounds, reference_steps = (8, 1, 64) if quick else (64, 3, REFERENCE_STEPS)
    tolerances = (1e-1, 1e-2) if quick else (3e-1, 1e-1, 3e-2, 1e-2, 1e-3, 1e-4)
    grids = (6, 12) if quick else (6, 9, 12, 18, 32, 64)
    denoiser = sj.EmpiricalDenoiser(data)
    points = np.asarray(denoiser.data)
    u = starts(denoiser, jax.random.key(1), num)

    def grid(steps: int) -> tuple[float, ...]:
        return tuple(float(x) for x in sj.edm_grid(steps, SIGMA_MAX, SIGMA_MIN))

    def call(solver: Any, rtol: float | None, levels: Any) -> Any:
        return jax.block_until_ready(followed(denoiser, u, solver, rtol, levels))

    truncated = sj.TruncatedDenoiser(denoiser.data)

    def replayed(levels: Any) -> Any:
        found = sj.replay(truncated, jax.random.key(1), num, levels=levels, batch_size=num)
        return jax.block_until_ready((found.points, found.evaluations))

    heun = diffrax.Heun()
    reference = np.asarray(call(heun, None, grid(reference_steps))[0])
    doubt = agreement(points, reference, call(heun, None, grid(reference_steps // 2))[0])
    contestants: dict[str, tuple[Callable[[], Any], float]] = {}
    for steps in grids:
        levels = grid(steps)
        contestants[f"EDM-Heun, {steps} levels"] = lambda t=levels: call(heun, None, t), steps
    for steps in grids:
        levels = sj.adapted_grid(denoiser, jax.random.key(0), steps, SIGMA_MAX, SIGMA_MIN)
        contestants[f"replay, {steps} levels"] = lambda t=levels: replayed(t), steps
    solvers = {
        "ExponentialMultistep": (sj.ExponentialMultistep(), tolerances),
        "Tsit5": (diffrax.Tsit5(), tolerances[1:]),
        "Dopri5": (diffrax.Dopri5(), tolerances[1:]),
    }
    for name, (solver, chosen) in solvers.items():
        for rtol in chosen:
            run = lambda s=solver, r=rtol: call(s, r, None)  # noqa: E731
            contestants[f"{name}, rtol {rtol:g}"] = run, rtol
    bar.reset(total=len(contestants))
    for name, (run, setting) in contestants.items():
        first = first_call(run)
        seconds = in_turn({name: run}, rounds, rng(), 0)[name]
        found, evaluations = run()
        case = {"n": len(points), "d": points.shape[1], "samples": num, "setting": setting}
        yield row(
            f"smoothjax {name}",
            seconds,
            kind="precision",
            solver=name.partition(",")[0],
            evaluations=float(jnp.mean(evaluations)),
            most_evaluations=int(jnp.max(evaluations)),
            first_seconds=first,
            compile_seconds=max(0.0, first - float(np.median(seconds))),
            doubt=doubt["error"],
            doubt_distance=doubt["distance"],
            **case,
            **agreement(points, reference, found),
        )
        bar.update()

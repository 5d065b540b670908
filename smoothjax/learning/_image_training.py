"""Training of a denoiser on N points for a fixed budget: compiled in blocks of steps, resumed exactly, many at once."""

import contextlib
import dataclasses
import os
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, PyTree

from .._checks import (
    RealScalar,
    as_float_array,
    as_points,
    as_positive_integer,
    positive_parameter,
    require_finite,
    shown,
)
from .._files.checkpoint import fingerprint, load_state, open_folder, read_configuration, save_state
from .._kinds import checks_kinds
from .._progress import progress_bar
from ._noise_conditioned import Architecture, ConvolutionalArchitecture, MLPArchitecture
from ._preconditioned import P_MEAN, P_STD, PreconditionedDenoiser, edm_loss
from ._training import TrainingRun, adam, step_down

_ARCHITECTURES = {"mlp": MLPArchitecture, "convolutional": ConvolutionalArchitecture}
_KINDS = {kind: name for name, kind in _ARCHITECTURES.items()}


class _State(NamedTuple):
    """All that a training is: what a checkpoint holds. Ensembles have a leading axis on everything but `step`."""

    step: Int[Array, ""]
    parameters: PyTree
    average: PyTree
    optimizer: PyTree
    losses: Float[Array, "... num_steps"]


@dataclasses.dataclass(frozen=True)
class _Settings:
    num_steps: int
    batch_size: int
    learning_rate: float
    ema_decay: float
    p_mean: float
    p_std: float

    def optimizer(self) -> optax.GradientTransformation:
        return adam(self.learning_rate, self.num_steps)


@checks_kinds
def train_denoiser(
    data: Float[Array, "n d"] | Float[Array, "members n d"],
    architecture: Architecture,
    key: PRNGKeyArray | Key[Array, " members"],
    *,
    num_steps: int,
    stop: int | None = None,
    image_shape: tuple[int, int, int] | None = None,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    ema_decay: float = 0.998,
    p_mean: float = P_MEAN,
    p_std: float = P_STD,
    sigma_data: RealScalar | None = None,
    out: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 500,
    progress: bool = False,
) -> TrainingRun:
    """Trains a network on the points for a fixed number of steps, and returns the average of its parameters over them.

    `edm_loss` on fresh noise, minimised by Adam with a cosine schedule. The steps between two checkpoints are one compiled
    call. With an array of keys, as many networks are trained at once, each on its own key: on the same points, or on a set
    each of equal size.

    Args:
        data: training points, shape (n, d); or (members, n, d), with as many keys.
        architecture: `MLPArchitecture` or `ConvolutionalArchitecture`.
        key: of the initial weights and every step's randomness, which is folded from it by the number of the step. An array
            of keys, `jax.random.split(key, members)`, trains an ensemble.
        num_steps: gradient steps. What a network has learned depends on it: report it.
        stop: return after that many of them, the schedule being that of `num_steps`; by default, after all. With `out`, a
            later call goes on from there.
        image_shape: (height, width, channels) of the points; needed for convolutions.
        batch_size: of each step, drawn with replacement.
        learning_rate: at the start; falls to zero as a cosine.
        ema_decay: of the exponential moving average of the parameters, a step. At step i, counted from zero, it is at most
            `(1 + i) / (10 + i)`, so that a short training forgets its initial weights as well.
        p_mean, p_std: of the log noise level in training, see `edm_loss`.
        sigma_data: root mean square of the data's entries, by default that of `data` (of all sets together),
            which must then not be all zeros.
        out: folder for a checkpoint. A stopped training goes on from there with the same call, and ends with the same bits
            as one that was never stopped; a finished one is read back.
        checkpoint_every: steps between checkpoints and updates of the progress bar; the result does not depend on it.
        progress: show a progress bar (needs tqdm).

    Returns:
        The denoiser with averaged parameters (`PreconditionedDenoiser`) and the loss of every step, shape (stop,); with
        a leading axis of members on both for an ensemble (evaluate it under `eqx.filter_vmap`).

    Raises:
        ValueError: for data, sizes or rates out of range, or where `out` holds the training of another configuration, or one
            that is past `stop`.

    Source: Karras et al. 2022, section 5 (loss, preconditioning); moving average as in Song et al. 2021.

    Example:
        >>> import jax, smoothjax as sj
        >>> from smoothjax import learning
        >>> data = jax.random.normal(jax.random.key(0), (50, 2))
        >>> small = learning.MLPArchitecture(width=32, num_layers=3)
        >>> run = learning.train_denoiser(data, small, jax.random.key(1), num_steps=100)
        >>> sj.sample(run.model, jax.random.key(2), 5, sigma_max=20.0, steps=18).shape
        (5, 2)
    """
    ensemble = _is_ensemble(key)
    data = _as_training_points(data, key)
    settings = _Settings(
        as_positive_integer(num_steps, "num_steps"),
        as_positive_integer(batch_size, "batch_size"),
        float(positive_parameter(learning_rate, "learning_rate")),
        float(ema_decay),
        float(p_mean),
        float(positive_parameter(p_std, "p_std")),
    )
    if not 0 <= settings.ema_decay < 1:
        raise ValueError(f"`ema_decay` must lie in [0, 1); got {ema_decay}.")
    if not np.isfinite(settings.p_mean):
        raise ValueError(f"`p_mean` must be finite; got {p_mean}.")
    end = settings.num_steps if stop is None else as_positive_integer(stop, "stop")
    if end > settings.num_steps:
        raise ValueError(f"`stop` must be at most `num_steps`, {num_steps}; got {stop}.")
    block = as_positive_integer(checkpoint_every, "checkpoint_every")
    if type(architecture) not in _KINDS:
        raise ValueError(
            "`architecture` must be an MLPArchitecture or a ConvolutionalArchitecture; "
            f"got {type(architecture).__name__}."
        )
    if sigma_data is None:
        # Rounded, so that it does not depend on the order of a sum.
        mean_square = np.mean(np.square(np.asarray(data, np.float64)))
        sigma_data = float(f"{np.sqrt(mean_square):.6g}")
        if sigma_data == 0:
            raise ValueError(
                "`data` must not be all zeros, by whose size the network's input and output are scaled; got an array of "
                f"shape {data.shape}. Give `sigma_data`."
            )
    scale = float(positive_parameter(sigma_data, "sigma_data"))
    start = _initial_state(architecture, data, image_shape, scale, key, settings)
    folder = None
    if out is not None:
        configuration = {
            "kind": _KINDS[type(architecture)],
            "architecture": dataclasses.asdict(architecture),
            "image_shape": None if image_shape is None else list(image_shape),
            "dim": data.shape[-1],
            "dtype": str(data.dtype),
            "members": key.shape[0] if ensemble else None,
            "sigma_data": scale,
            **dataclasses.asdict(settings),
            "data": fingerprint(data),
            "key": np.asarray(jax.random.key_data(key)).tolist(),
        }
        folder = open_folder(out, configuration)
        found = load_state(folder, eqx.filter_eval_shape(lambda: start))
        start = start if found is None else found
        if start.step > end:
            raise ValueError(
                f"The training in {folder} is at step {start.step}, past `stop`, {end}."
            )

    model, state = _skeleton(architecture, data.shape[-1], image_shape, scale, data.dtype), start
    # tqdm is an extra's: asked for only where something is to be shown.
    shown: Any = contextlib.nullcontext()
    if progress:
        shown = progress_bar(total=end, initial=int(state.step), what="training", unit="step")
    with shown as bar:
        while (step := int(state.step)) < end:
            reached = min((step // block + 1) * block, end)
            state = _advance(model, state, data, key, jnp.asarray(reached, jnp.int32), settings)
            if folder is not None:
                save_state(folder, state)
            if bar is not None:
                loss = float(jnp.mean(state.losses[..., step:reached]))
                bar.set_description(f"training, loss {loss:.4f}", refresh=False)
                bar.update(reached - step)
    return TrainingRun(eqx.combine(state.average, model), state.losses[..., :end])


@checks_kinds
def load_denoiser(folder: str | os.PathLike[str]) -> TrainingRun:
    """What `train_denoiser` saved in a folder: the denoiser with averaged parameters, and the losses so far.

    A training that was stopped gives the average up to its last checkpoint, and as many losses as there were steps.

    Raises:
        FileNotFoundError: where the folder holds no training, or none with a checkpoint.
        ValueError: where its files are damaged, or in float64 while JAX is in 32-bit mode.

    Example:
        >>> import jax, smoothjax as sj
        >>> data = jax.random.normal(jax.random.key(0), (10, 2))
        >>> small = sj.learning.MLPArchitecture(width=4, num_layers=2)
        >>> run = sj.learning.train_denoiser(data, small, jax.random.key(1), num_steps=3, out="run")
        >>> again = sj.learning.load_denoiser("run")
        >>> bool((again.losses == run.losses).all()), bool((again.model(data[0], 1.0) == run.model(data[0], 1.0)).all())
        (True, True)
    """
    folder = Path(folder)
    found = read_configuration(folder)
    try:
        architecture = _ARCHITECTURES[found["kind"]](**found["architecture"])
        shape = None if found["image_shape"] is None else tuple(found["image_shape"])
        names = [field.name for field in dataclasses.fields(_Settings)]
        settings = _Settings(**{name: found[name] for name in names})
        dim, members, dtype = found["dim"], found["members"], jnp.dtype(found["dtype"])
        scale = found["sigma_data"]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{folder} does not hold a training of this library: {error!r}."
        ) from error
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(
            f"{folder} holds a denoiser in {dtype}, which needs 64-bit mode: jax.config.update('jax_enable_x64', True)."
        )
    like = eqx.filter_eval_shape(
        lambda: _initial_state(
            architecture,
            jnp.zeros((1, dim), dtype),
            shape,
            scale,
            jax.random.key(0) if members is None else jax.random.split(jax.random.key(0), members),
            settings,
        )
    )
    state = load_state(folder, like)
    if state is None:
        raise FileNotFoundError(f"The training in {folder} has no checkpoint yet.")
    model = _skeleton(architecture, dim, shape, scale, dtype)
    return TrainingRun(eqx.combine(state.average, model), state.losses[..., : int(state.step)])


def _is_ensemble(key: Any) -> bool:
    is_key = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not is_key or key.ndim > 1:
        raise ValueError(
            "`key` must be a key, or an array of them for an ensemble, as made by `jax.random.key` and `jax.random.split`; "
            f"got {shown(key)}."
        )
    return key.ndim == 1


def _as_training_points(data: Any, key: PRNGKeyArray) -> Array:
    array = as_float_array(data, "data")
    if array.ndim != 3:
        return as_points(data)
    members = key.shape[0] if key.ndim else None
    if array.shape[0] != members or 0 in array.shape:
        given = "a single key" if members is None else f"{members} keys"
        raise ValueError(
            "`data` of shape (members, n, d) must come with as many keys as members, and hold points; "
            f"got {array.shape} with {given}."
        )
    require_finite(array, "data")
    return array


def _build(
    architecture: Architecture, dim: int, image_shape: Any, scale: float, dtype: Any, key: Any
) -> PreconditionedDenoiser:
    network = architecture.build(dim, image_shape, key)
    model = PreconditionedDenoiser(network, dim, scale)
    return jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, model)


def _skeleton(architecture: Architecture, dim: int, shape: Any, scale: float, dtype: Any) -> Any:
    """The model without its parameters."""
    build = lambda: _build(architecture, dim, shape, scale, dtype, jax.random.key(0))  # noqa: E731
    shapes = eqx.filter_eval_shape(build)
    return jax.tree.map(lambda x: None if isinstance(x, jax.ShapeDtypeStruct) else x, shapes)


@eqx.filter_jit
def _initial_state(
    architecture: Architecture,
    data: Array,
    image_shape: Any,
    scale: float,
    key: PRNGKeyArray,
    settings: _Settings,
) -> _State:
    def one(key: PRNGKeyArray) -> _State:
        init = jax.random.fold_in(key, 0)
        model = _build(architecture, data.shape[-1], image_shape, scale, data.dtype, init)
        parameters = eqx.filter(model, eqx.is_inexact_array)
        losses = jnp.zeros(settings.num_steps, data.dtype)
        optimizer = settings.optimizer().init(parameters)
        return _State(jnp.zeros((), jnp.int32), parameters, parameters, optimizer, losses)

    if key.ndim == 0:
        return one(key)
    return jax.vmap(one, out_axes=_State(None, 0, 0, 0, 0))(key)  # pyright: ignore


@eqx.filter_jit
def _advance(
    model: Any, state: _State, data: Array, key: PRNGKeyArray, stop: Array, settings: _Settings
) -> _State:
    """Steps up to `stop`. One program for blocks of any length, so that the bits do not depend on where they end."""
    optimizer = settings.optimizer()

    def one(state: _State, data: Array, key: PRNGKeyArray) -> _State:
        step_key = jax.random.fold_in(jax.random.fold_in(key, 1), state.step)

        def loss(parameters: PyTree) -> Array:
            return edm_loss(
                eqx.combine(parameters, model),
                data,
                step_key,
                batch_size=settings.batch_size,
                p_mean=settings.p_mean,
                p_std=settings.p_std,
            )

        (parameters, optimizer_state), value = step_down(
            optimizer, loss, state.parameters, state.optimizer
        )
        i = state.step.astype(value.dtype)
        decay = jnp.minimum(settings.ema_decay, (1 + i) / (10 + i))
        average = jax.tree.map(lambda a, p: a + (1 - decay) * (p - a), state.average, parameters)
        losses = state.losses.at[state.step].set(value)
        return _State(state.step + 1, parameters, average, optimizer_state, losses)

    if key.ndim:
        axes = _State(None, 0, 0, 0, 0)  # pyright: ignore[reportArgumentType]
        many = jax.vmap(one, in_axes=(axes, 0 if data.ndim == 3 else None, 0), out_axes=axes)
    else:
        many = one
    return jax.lax.while_loop(lambda s: s.step < stop, lambda s: many(s, data, key), state)

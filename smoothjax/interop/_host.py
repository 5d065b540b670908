"""NumPy functions on the host as JAX functions of one point: called with whole batches, tried once, counted."""

import functools
import threading
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Real

from .._checks import as_float_array, is_concrete
from .._jax.host_errors import HostCallError, raising_host_errors, record_failure, record_trace
from .._kinds import checks_kinds

_TEXT = 200  # characters of somebody else's message that are repeated


class Refusal(ValueError):
    """A `ValueError` whose text is complete: what was expected, what came, what to do."""


class HostCalls(NamedTuple):
    """How often a function on the host was called, and with how many points in all; the same for its derivative.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from smoothjax.interop import HostFunction
        >>> host = HostFunction(lambda x, t: x)
        >>> values = jax.vmap(host, in_axes=(0, None))(jnp.ones((5, 2)), 1.0)
        >>> host.calls
        HostCalls(batches=1, rows=5, derivative_batches=0, derivative_rows=0)
    """

    batches: int = 0
    rows: int = 0
    derivative_batches: int = 0
    derivative_rows: int = 0


class _Record:
    """What is known of a host function from its calls. One object for all copies of the function."""

    def __init__(self):
        self._lock = threading.Lock()
        self.calls = HostCalls()
        self.point: tuple[np.ndarray, np.ndarray] | None = None  # of the trial call
        self.refused: dict[
            str, str | None
        ] = {}  # derivatives that were tested, and what is wrong with them

    def count(self, rows: int, derivative: bool) -> int:
        with self._lock:
            new = (0, 0, 1, rows) if derivative else (1, rows, 0, 0)
            self.calls = HostCalls(*(a + b for a, b in zip(self.calls, new, strict=True)))
            return self.calls.batches + self.calls.derivative_batches

    def __getstate__(self) -> dict[str, Any]:
        return {"point": self.point, "refused": self.refused}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()
        self.__dict__.update(state)


class HostFunction(eqx.Module):
    """A NumPy function on batches as a JAX function of one point.

    `jax.vmap`, nested or not, reaches `function` once with the whole batch; so do `smoothjax.sample` and the measures. It is
    called anew whenever its values are needed: what it reads may change between calls, but it must be a pure function
    within one. Inside, do not call JAX. `calls` says how often it was called.

    Args:
        function: `function(x, t)` of arrays of shape (batch, d) and (batch,), returning (batch, d).
        jvp: its derivative, `jvp(x, t, dx, dt)` of arrays of shape (batch, d), (batch,), (batch, d) and (batch,), returning
            `(dfunction/dx) dx + (dfunction/dt) dt`, shape (batch, d). With it, first derivatives exist in forward mode:
            `jax.jvp`, `jax.linearize`, `jax.jacfwd`, which is what likelihoods and posterior covariances take. Those in
            reverse mode (`jax.grad`) do not, and raise.

    Raises:
        ValueError: when differentiated without `jvp`, or for a result of another shape or dtype.

    An exception inside `function`, `KeyboardInterrupt` and `SystemExit` too, is raised as it is, with a note of the call, by
    a call outside `jax.jit`, and by flows, likelihoods and measures. Inside your own `jax.jit` JAX makes a `JaxRuntimeError`
    or `ValueError` of it, the last line of which says what happened in which call.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from smoothjax.interop import HostFunction
        >>> shrink = HostFunction(lambda x, t: x / (1 + t[:, None] ** 2))
        >>> print(jax.vmap(shrink, in_axes=(0, None))(jnp.ones((2, 3)), 1.0))
        [[0.5 0.5 0.5]
         [0.5 0.5 0.5]]
    """

    function: Callable[..., Any] = eqx.field(static=True)
    jvp: Callable[..., Any] | None = eqx.field(static=True)
    _record: _Record = eqx.field(static=True, repr=False)
    runs_on_host: ClassVar[bool] = True

    @checks_kinds
    def __init__(self, function: Callable[..., Any], jvp: Callable[..., Any] | None = None):
        self.function, self.jvp, self._record = function, jvp, _Record()

    @property
    def calls(self) -> HostCalls:
        """All calls since this function was made or its count reset, trial calls included."""
        return self._record.calls

    def reset_calls(self) -> None:
        """Counts from zero again."""
        self._record.calls = HostCalls()

    @property
    def is_step_function_of_sigma(self) -> bool:
        """Whether the function rounds its noise level, as it says by an attribute of this name."""
        return bool(getattr(self.function, "is_step_function_of_sigma", False))

    @raising_host_errors
    def __call__(self, x: Float[Array, " d"], t: Real[ArrayLike, ""]) -> Float[Array, " d"]:
        x, t = as_float_array(x, "x"), jnp.asarray(t)
        if x.ndim != 1 or t.ndim != 0:
            raise ValueError(
                f"`x` must be one point of shape (d,) and `t` a scalar; got {x.shape} and {t.shape}. "
                "For a batch, use jax.vmap."
            )
        # Known values inside a computation that is being traced are staged with it: the function may change in between.
        if is_concrete(x, t, jnp.negative(x)):
            return jnp.asarray(_evaluate(self, False, x, t))
        record_trace()
        return _call(self, x, t)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _call(host: HostFunction, x: Array, t: Array) -> Array:
    return _on_host(host, False, x, t)


def _call_jvp(host: HostFunction, primals: Any, tangents: Any) -> tuple[Array, Array]:
    if host.jvp is None:
        raise ValueError(
            "This function runs on the host and cannot be differentiated by JAX; give its derivative as `jvp`."
        )
    (x, t), (dx, dt) = primals, tangents
    in_x, in_t = (not isinstance(d, jax.custom_derivatives.SymbolicZero) for d in tangents)
    # The tangent of an integer, such as the index of a noise level.
    in_t = in_t and dt.dtype != jax.dtypes.float0
    for name, asked in (("x", in_x), ("t", in_t)):
        if asked:
            _require_derivative(host, name)
    dx = dx if in_x else jnp.zeros_like(x)
    dt = dt if in_t else jnp.zeros((), x.dtype)
    return _on_host(host, False, x, t), _on_host(host, True, x, t, dx, dt)


_call.defjvp(_call_jvp, symbolic_zeros=True)


def _on_host(host: HostFunction, derivative: bool, x: Array, *others: Array) -> Array:
    """One call of the function, or of its derivative, with all points there are."""

    def call(*arguments: Any) -> np.ndarray:
        try:
            return _evaluate(host, derivative, *arguments)
        except BaseException as error:
            record_failure(error)
            raise HostCallError(_in_one_line(error)) from None

    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return jax.pure_callback(call, shape, x, *others, vmap_method="expand_dims")


def _evaluate(host: HostFunction, derivative: bool, *arguments: Any) -> np.ndarray:
    """The function, or its derivative, of arrays each with its own batch axes: every argument gets one of them."""
    arrays = [np.asarray(argument) for argument in arguments]
    ranks = [1, 0, 1, 0][: len(arrays)]
    axes = [a.shape[: a.ndim - rank] for a, rank in zip(arrays, ranks, strict=True)]
    batch = np.broadcast_shapes(*axes)
    rows = [
        np.broadcast_to(a, batch + a.shape[a.ndim - rank :]).reshape(-1, *a.shape[a.ndim - rank :])
        for a, rank in zip(arrays, ranks, strict=True)
    ]
    function = host.jvp if derivative else host.function
    assert function is not None
    number = host._record.count(len(rows[0]), derivative)
    try:
        result = _checked_result(function(*rows), rows[0])
    except BaseException as error:
        what = "its derivative" if derivative else "the network"
        error.add_note(f"In call {number} of {what} on the host, with {described(rows)}.")
        raise
    return result.reshape(*batch, rows[0].shape[1])


def _checked_result(result: Any, x: np.ndarray) -> np.ndarray:
    """The result as an array like x."""
    try:
        array = np.asarray(result)
    except Exception as error:
        raise Refusal(
            f"The function must return an array of shape {x.shape}; got {type(result).__name__}."
        ) from error
    if np.ma.is_masked(result):
        raise Refusal("The function must return no masked numbers, whose mask would be lost.")
    if array.shape != x.shape or array.dtype.kind not in "fiu":
        # Dtypes that NumPy does not know, such as bfloat16, are of another kind.
        is_real = array.dtype.kind in "fiu" or jnp.issubdtype(array.dtype, jnp.floating)
        if array.shape != x.shape or not is_real:
            came = f"shape {array.shape}" if result is not None else "None"
            raise Refusal(
                f"The function must return real numbers of shape {x.shape}, as its first argument; got {came}"
                + ("." if is_real else f" in {array.dtype}.")
            )
    return array.astype(x.dtype, copy=False)


def described(arrays: Any) -> str:
    """Shapes and dtypes of the arguments of a call."""
    names = ("x", "t", "dx", "dt")[: len(arrays)]
    each = (f"{n} {tuple(a.shape)} {_dtype_name(a)}" for n, a in zip(names, arrays, strict=True))
    return ", ".join(each)


def _dtype_name(array: Any) -> str:
    return str(array.dtype).removeprefix("torch.")


def first_line(text: Any) -> str:
    """A text, such as somebody else's message, cut to a line."""
    line = " ".join(str(text).split())
    return line if len(line) <= _TEXT else line[: _TEXT - 3] + "..."


def _in_one_line(error: BaseException) -> str:
    notes = " ".join(getattr(error, "__notes__", ()))
    text = ": ".join(part for part in (type(error).__name__, first_line(error)) if part)
    return f"{text} {first_line(notes)}".strip()


def try_once(host: HostFunction, name: str, x: np.ndarray, t: np.ndarray) -> None:
    """Calls the function once, when the denoiser is built, with points x, (2, d), at times t.

    Raises:
        ValueError: of one line, where it fails or returns something else than was asked for.
    """
    refusal = None
    try:
        _evaluate(host, False, x, t)
    except Refusal as error:
        refusal = str(error)
    except Exception as error:
        explain = getattr(host.function, "explain", None)
        called = f"called once with {described((x, t))}"
        advice = (
            f"{called}. It must take arrays of these shapes and return one like x."
            if explain is None
            else explain(error, x, t)
        )
        raise ValueError(
            f"`{name}` raised {type(error).__name__} ({first_line(error).rstrip('.')}) when it was {advice}"
        ) from error
    if refusal is not None:
        raise ValueError(refusal)
    host._record.point = x, t


def _require_derivative(host: HostFunction, name: str) -> None:
    """Raises unless the derivative by x, or by t, agrees with a directional difference at the point of the trial call.

    Tested when it is asked for the first time, while JAX traces: compiled functions do not repeat it.
    """
    if name == "t" and host.is_step_function_of_sigma:
        raise ValueError(
            "The network is a step function of sigma: it has no derivative by sigma. Differentiate by the point only."
        )
    record = host._record
    if record.point is None:
        return
    if name not in record.refused:
        record.refused[name] = _wrong_derivative(host, name, *record.point)
    if record.refused[name] is not None:
        raise ValueError(record.refused[name])


def _wrong_derivative(host: HostFunction, name: str, x: np.ndarray, t: np.ndarray) -> str | None:
    if name == "t" and t.dtype.kind != "f":
        return None
    eps = max(float(np.finfo(x.dtype).eps), float(getattr(host.function, "resolution", 0.0)))
    signs = np.where(np.random.default_rng(1).random(x.shape) < 0.5, -1, 1).astype(x.dtype)
    dx, dt = (signs, np.zeros_like(t)) if name == "x" else (np.zeros_like(x), t)
    # The rounding of a difference, eps / h, against its bias, h^2.
    h = eps ** (1 / 3)
    scales = [h, -h, h / 2, -h / 2]
    moved = _evaluate(
        host,
        False,
        np.concatenate([x + np.asarray(s, x.dtype) * dx for s in scales]),
        np.concatenate([t + np.asarray(s, t.dtype) * dt for s in scales]),
    )
    try:
        exact = _evaluate(host, True, x, t, dx, dt)
    except Exception as error:
        raise ValueError(
            f"The network has values but no derivative by {name} ({type(error).__name__}: {first_line(error).rstrip('.')}). "
            "Its operations must be differentiable, for PyTorch twice and none in place; values are still served."
        ) from error
    values = moved.reshape(4, *x.shape).astype(np.float64)
    coarse, fine = (values[0] - values[1]) / (2 * h), (values[2] - values[3]) / h
    size, off = np.linalg.norm(fine), np.linalg.norm(exact - fine)
    rounding = eps * np.linalg.norm(values[2]) / (h / 2)
    if off <= 0.1 * size + 3 * np.linalg.norm(coarse - fine) + 4 * rounding:
        return None
    return (
        f"The derivative of the network by {name} is not that of its values: along one direction it has "
        f"size {np.linalg.norm(exact):.2g}, a difference of values {size:.2g}. Take torch.no_grad, .detach(), "
        "torch.inference_mode, .long() and NumPy out of its forward pass, or mend `jvp`; values are still served."
    )

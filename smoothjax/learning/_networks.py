"""ReLU networks, and the parametrisations that make denoisers of them."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import RealScalar, as_key, as_positive_integer
from .._kinds import checks_kinds
from ..denoisers import AbstractDenoiser
from ..parametrization import Prediction, as_prediction, to_denoised


class ReLUNetwork(eqx.Module):
    """A fully connected network with ReLU activations and biases, linear at its end.

    Args:
        in_size, out_size: dimensions.
        width: units of every hidden layer.
        num_layers: linear maps; 2 is the two-layer network of the theory.
        key: of the initial weights (Equinox's default, uniform in `+- 1 / sqrt(fan in)`).

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> network = sj.learning.ReLUNetwork(1, 1, 8, 2, key=jax.random.key(0))
        >>> far = [network(jnp.array([x]))[0] for x in (1e3, 2e3, 3e3)]  # beyond all kinks: straight
        >>> bool(abs(far[0] - 2 * far[1] + far[2]) < 0.1)
        True
    """

    layers: tuple[eqx.nn.Linear, ...]

    @checks_kinds
    def __init__(
        self, in_size: int, out_size: int, width: int, num_layers: int, *, key: PRNGKeyArray
    ):
        if as_positive_integer(num_layers, "num_layers") < 2:
            raise ValueError(f"`num_layers` must be at least 2; got {num_layers}.")
        inner = [as_positive_integer(width, "width")] * (num_layers - 1)
        sizes = [as_positive_integer(in_size, "in_size"), *inner]
        sizes.append(as_positive_integer(out_size, "out_size"))
        keys = jax.random.split(as_key(key), num_layers)
        self.layers = tuple(
            eqx.nn.Linear(a, b, key=k) for a, b, k in zip(sizes[:-1], sizes[1:], keys, strict=True)
        )

    def __call__(self, x: Float[Array, " in_size"]) -> Float[Array, " out_size"]:
        for layer in self.layers[:-1]:
            x = jax.nn.relu(layer(x))
        return self.layers[-1](x)


class NetworkDenoiser(AbstractDenoiser):
    r"""A network read as a denoiser.

    With output o: `D = o` (`"x0"`), `u - sigma o` (`"eps"`: o is the noise), `u + sigma^2 o` (`"score"`), or as the other
    predictions have it, see `parametrization.to_denoised`.

    Args:
        network: a callable, of the point u or, if `conditioned`, of u with `log sigma` appended: shape (d + 1,).
        dim: dimension d of the data.
        prediction: what the network predicts.
        conditioned: whether it is told the noise level; without, it is meant for one level only (or is blind).
        weighted: whether losses weigh the denoiser's squared error by `1 / sigma^2`.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> D = sj.learning.NetworkDenoiser(lambda u: jnp.ones_like(u), 2, conditioned=False)
        >>> print(D(jnp.array([3.0, 4.0]), 2.0))  # u - sigma o
        [1. 2.]
    """

    network: Callable[[Float[Array, " in_size"]], Float[Array, " d"]]
    _dim: int = eqx.field(static=True)
    prediction: Prediction = eqx.field(static=True)
    conditioned: bool = eqx.field(static=True)
    weighted: bool = eqx.field(static=True)

    @checks_kinds
    def __init__(
        self,
        network: Callable[[Float[Array, " in_size"]], Float[Array, " d"]],
        dim: int,
        *,
        prediction: Prediction = "eps",
        conditioned: bool = True,
        weighted: bool = True,
    ):
        self.network, self._dim = network, as_positive_integer(dim, "dim")
        self.prediction = as_prediction(prediction)
        self.conditioned, self.weighted = conditioned, weighted

    @classmethod
    @checks_kinds
    def relu(
        cls,
        dim: int,
        width: int,
        num_layers: int = 2,
        *,
        key: PRNGKeyArray,
        prediction: Prediction = "eps",
        conditioned: bool = True,
        weighted: bool = True,
    ) -> "NetworkDenoiser":
        """One with a fresh `ReLUNetwork` of the right sizes.

        Example:
            >>> import jax, smoothjax as sj
            >>> D = sj.learning.NetworkDenoiser.relu(2, 16, key=jax.random.key(0))
            >>> [layer.weight.shape for layer in D.network.layers]  # sees u and log sigma
            [(16, 3), (2, 16)]
        """
        key = as_key(key)
        dim = as_positive_integer(dim, "dim")
        network = ReLUNetwork(dim + conditioned, dim, width, num_layers, key=key)
        return cls(network, dim, prediction=prediction, conditioned=conditioned, weighted=weighted)

    @property
    def dim(self) -> int:
        return self._dim

    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        u, sigma = self._point(u, sigma)
        return self.denoise(u, sigma)

    def denoise(self, u: Float[Array, " d"], sigma: Float[Array, ""]) -> Float[Array, " d"]:
        """The same without checks: what a loss evaluates millions of times."""
        output = self.network(jnp.append(u, jnp.log(sigma)) if self.conditioned else u)
        return to_denoised(self.prediction, output, u, sigma)

    def loss_weight(self, sigma: Float[Array, ""]) -> Float[Array, ""]:
        """Weight of the denoiser's squared error in the loss: `1 / sigma^2`, or one if unweighted."""
        return 1 / sigma**2 if self.weighted else jnp.ones_like(sigma)

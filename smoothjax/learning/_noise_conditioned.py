"""Networks told the noise level: a residual MLP for points of any kind, and a convolutional network for images."""

import dataclasses
import itertools
import math
from typing import Any, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import as_key, as_positive_integer
from .._kinds import checks_kinds

Padding = Literal["zeros", "circular"]

NUM_FEATURES = 16


def noise_features(noise: Float[Array, ""]) -> Float[Array, "16"]:
    """Cosines and sines of `noise`, with frequencies `2^(k/2)`, k = 0..7.

    For `noise = log(sigma) / 4` the slowest sine is monotone over the usual noise levels, and the fastest has a period of a
    factor of 9 in `sigma`: finer than what a denoiser depends on, and no finer, so that nothing is learned level by level.
    """
    angles = noise * jnp.exp2(jnp.arange(NUM_FEATURES // 2) / 2).astype(noise.dtype)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)])


class ResidualMLP(eqx.Module):
    """A fully connected network with SiLU activations and residual hidden layers, told the noise level.

    The point and `noise_features` enter the first layer together; the last layer starts at zero.

    Args:
        dim: dimension d of its input and output.
        width: units of every hidden layer.
        num_layers: linear maps, at least 2; all but the first and last are residual, `h + silu(W h + b)`.
        key: of the initial weights (Equinox's default, uniform in `+- 1 / sqrt(fan in)`).

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> network = sj.learning.ResidualMLP(2, 8, 3, key=jax.random.key(0))
        >>> print(network(jnp.ones(2), jnp.array(0.0)))  # the last layer starts at zero
        [0. 0.]
    """

    layers: tuple[eqx.nn.Linear, ...]

    @checks_kinds
    def __init__(self, dim: int, width: int, num_layers: int, *, key: PRNGKeyArray):
        dim, width = as_positive_integer(dim, "dim"), as_positive_integer(width, "width")
        inner = [width] * (_as_num_layers(num_layers) - 1)
        sizes = [dim + NUM_FEATURES, *inner, dim]
        keys = jax.random.split(as_key(key), num_layers)
        layers = [
            eqx.nn.Linear(*pair, key=k)
            for pair, k in zip(itertools.pairwise(sizes), keys, strict=True)
        ]
        self.layers = (*layers[:-1], _zeros_like(layers[-1]))

    def __call__(self, x: Float[Array, " d"], noise: Float[Array, ""]) -> Float[Array, " d"]:
        first, *residual, last = self.layers
        h = jax.nn.silu(first(jnp.concatenate([x, noise_features(noise).astype(x.dtype)])))
        for layer in residual:
            h = h + jax.nn.silu(layer(h))
        return last(h)


class ConvolutionalNetwork(eqx.Module):
    """A network of 3 x 3 convolutions on images, told the noise level.

    Every layer but the last is modulated channel by channel (a scale and a shift, linear in `noise_features`: FiLM), SiLU
    follows, and all but the first are residual. The last layer starts at zero. An output pixel depends on the square of
    `receptive_field` pixels around it, and on nothing else: the network is local by construction.

    Args:
        image_shape: (height, width, channels); points are images flattened in C order.
        channels: of every hidden layer.
        num_layers: convolutions, at least 2.
        padding: beyond the border. `"zeros"` lets the network see where the border is; `"circular"` makes it equivariant
            under cyclic translations, exactly.
        key: of the initial weights (uniform in `+- 1 / sqrt(fan in)`).

    Under `jax.vmap` each layer is three matrix products.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> network = sj.learning.ConvolutionalNetwork((2, 2, 1), 2, 2, key=jax.random.key(0))
        >>> print(jnp.abs(network(jnp.ones(4), jnp.array(0.0))).max())  # the last layer starts at zero
        0.0
    """

    kernels: tuple[Float[Array, "3 3 inputs outputs"], ...]
    biases: tuple[Float[Array, " outputs"], ...]
    modulations: tuple[eqx.nn.Linear, ...]
    image_shape: tuple[int, int, int] = eqx.field(static=True)
    padding: Padding = eqx.field(static=True)

    @checks_kinds
    def __init__(
        self,
        image_shape: tuple[int, int, int],
        channels: int,
        num_layers: int,
        *,
        padding: Padding = "zeros",
        key: PRNGKeyArray,
    ):
        key = as_key(key)
        self.image_shape, self.padding = _as_image_shape(image_shape), _as_padding(padding)
        inner = [as_positive_integer(channels, "channels")] * (_as_num_layers(num_layers) - 1)
        sizes = [self.image_shape[2], *inner, self.image_shape[2]]
        kernels, biases, modulations = [], [], []
        for i, (a, b) in enumerate(itertools.pairwise(sizes)):
            one, two, three = jax.random.split(jax.random.fold_in(key, i), 3)
            # A last layer of zeros: the network starts as the best isotropic linear denoiser.
            bound = 0.0 if i == num_layers - 1 else 1 / math.sqrt(9 * a)
            kernels.append(jax.random.uniform(one, (3, 3, a, b), minval=-bound, maxval=bound))
            biases.append(jax.random.uniform(two, (b,), minval=-bound, maxval=bound))
            if i < num_layers - 1:
                modulations.append(eqx.nn.Linear(NUM_FEATURES, 2 * b, key=three))
        self.kernels, self.biases = tuple(kernels), tuple(biases)
        self.modulations = tuple(modulations)

    @property
    def receptive_field(self) -> int:
        """Side of the square of pixels that an output pixel depends on."""
        return 2 * len(self.kernels) + 1

    def __call__(self, x: Float[Array, " d"], noise: Float[Array, ""]) -> Float[Array, " d"]:
        h, features = x.reshape(self.image_shape), noise_features(noise).astype(x.dtype)
        for i, modulation in enumerate(self.modulations):
            scale, shift = jnp.split(modulation(features), 2)
            scale, shift = scale[None, None], shift[None, None]
            new = jax.nn.silu((1 + scale) * self._convolve(h, i) + shift)
            h = new if i == 0 else h + new
        return self._convolve(h, len(self.kernels) - 1).ravel()

    def _convolve(self, h: Float[Array, "y x inputs"], i: int) -> Float[Array, "y x outputs"]:
        """A product for each row of the kernel.

        Not `jax.lax.conv`: its gradients run 60 times slower inside a compiled loop on the CPU (jax-ml/jax#12868).
        """
        mode: Any = "wrap" if self.padding == "circular" else "constant"
        padded = jnp.pad(h, ((1, 1), (1, 1), (0, 0)), mode=mode)
        height, width, _ = h.shape
        rows = jnp.concatenate([padded[:, x : x + width] for x in range(3)], axis=-1)
        kernel = self.kernels[i].reshape(3, -1, self.kernels[i].shape[-1])
        products = sum(rows[y : y + height] @ kernel[y] for y in range(3))
        return products + self.biases[i][None, None]


@dataclasses.dataclass(frozen=True)
class MLPArchitecture:
    """Sizes of a `ResidualMLP`, from which it is built for data of any dimension.

    Example:
        >>> import jax, smoothjax as sj
        >>> network = sj.learning.MLPArchitecture(width=8, num_layers=2).build(5, None, jax.random.key(0))
        >>> network(jax.numpy.ones(5), jax.numpy.array(0.0)).shape
        (5,)
    """

    width: int = 384
    """Units of every hidden layer."""
    num_layers: int = 4
    """Linear maps."""

    def __post_init__(self):
        as_positive_integer(self.width, "width")
        _as_num_layers(self.num_layers)

    def build(
        self, dim: int, image_shape: tuple[int, int, int] | None, key: PRNGKeyArray
    ) -> ResidualMLP:
        """The network with fresh weights; the image shape is not needed."""
        key = as_key(key)
        return ResidualMLP(dim, self.width, self.num_layers, key=key)


@dataclasses.dataclass(frozen=True)
class ConvolutionalArchitecture:
    """Sizes of a `ConvolutionalNetwork`, from which it is built for images of any shape.

    Example:
        >>> import jax, smoothjax as sj
        >>> sizes = sj.learning.ConvolutionalArchitecture(channels=2, num_layers=2)
        >>> sizes.build(4, (2, 2, 1), jax.random.key(0)).receptive_field  # 2 * 2 + 1
        5
    """

    channels: int = 32
    """Of every hidden layer."""
    num_layers: int = 6
    """Convolutions; the receptive field is `2 num_layers + 1` pixels wide."""
    padding: Padding = "zeros"
    """Beyond the border."""

    def __post_init__(self):
        as_positive_integer(self.channels, "channels")
        _as_num_layers(self.num_layers)
        _as_padding(self.padding)

    def build(
        self, dim: int, image_shape: tuple[int, int, int] | None, key: PRNGKeyArray
    ) -> ConvolutionalNetwork:
        """The network with fresh weights, or `ValueError` without the shape of images of `dim` numbers."""
        key = as_key(key)
        if image_shape is None:
            raise ValueError("`image_shape` is needed for a convolutional network; got None.")
        image_shape = _as_image_shape(image_shape)
        if math.prod(image_shape) != dim:
            raise ValueError(
                f"`image_shape` must multiply to the dimension {dim} of the data; got {image_shape}."
            )
        return ConvolutionalNetwork(
            image_shape, self.channels, self.num_layers, padding=self.padding, key=key
        )


Architecture = MLPArchitecture | ConvolutionalArchitecture


def _zeros_like(layer: eqx.nn.Linear) -> eqx.nn.Linear:
    return jax.tree.map(lambda x: jnp.zeros_like(x) if eqx.is_array(x) else x, layer)


def _as_num_layers(value: Any) -> int:
    if as_positive_integer(value, "num_layers") < 2:
        raise ValueError(f"`num_layers` must be at least 2; got {value}.")
    return value


def _as_padding(value: Any) -> Padding:
    if value not in get_args(Padding):
        raise ValueError(f"`padding` must be one of {get_args(Padding)}; got {value!r}.")
    return value


def _as_image_shape(value: Any) -> tuple[int, int, int]:
    try:
        height, width, channels = (as_positive_integer(n, "image_shape") for n in value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`image_shape` must be (height, width, channels); got {value!r}."
        ) from error
    return height, width, channels

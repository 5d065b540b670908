"""Flagged elements of a batch, in groups of fixed sizes: what few need is not computed for all."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int

_T = TypeVar("_T")


class Group(NamedTuple):
    """Some flagged elements, in a loop that runs while there are any."""

    flags: Bool[Array, " batch"]
    these: Int[Array, " group"]
    """Where they are; beyond the batch where the group is not full."""

    @property
    def taken(self) -> Int[Array, " group"]:
        """The same, but that a group that is not full repeats its first element."""
        return jnp.where(self.these < len(self.flags), self.these, self.these[0])

    def tied(self, inputs: _T) -> _T:
        """What the group is computed from, tied to the loop.

        Otherwise XLA computes what does not change in the loop whether or not it runs: of a single query, all.
        """
        return lax.optimization_barrier((self.flags, inputs))[1]

    def only(self, which: Bool[Array, " group"]) -> "Group":
        """Those for which that is true."""
        return self._replace(these=jnp.where(which, self.these, len(self.flags)))

    def put(self, old: Any, new: Any) -> Any:
        """Arrays of the batch with the group's elements; what is beyond the batch is dropped."""
        return jax.tree.map(lambda x, y: x.at[self.these].set(y, mode="drop"), old, new)


def over_flagged(
    update: Callable[[Group, _T], _T], flags: Bool[Array, " batch"], state: _T, *sizes: int
) -> _T:
    """The state after `update(group, state)` of all flagged elements, group by group.

    Args:
        update: of a group of any of the sizes.
        flags: which elements.
        state: anything; most often arrays of the batch.
        sizes: of groups. A few elements should not cost a large group, nor many of them many small ones.
    """
    num = len(flags)

    def some(size: int, loop: tuple[Array, _T]) -> tuple[Array, _T]:
        flags, state = loop
        (these,) = jnp.nonzero(flags, size=size, fill_value=num)
        group = Group(flags, these)
        state = update(group, state)
        return group.put(flags, False), state

    def any_left(loop: tuple[Array, _T]) -> Array:
        return jnp.any(loop[0])

    def many_left(loop: tuple[Array, _T]) -> Array:
        return jnp.sum(loop[0]) > 2 * smallest

    loop, smallest = (flags, state), min(num, *sizes)
    for size in sorted({min(num, size) for size in sizes}, reverse=True):
        left = any_left if size == smallest else many_left
        loop = lax.while_loop(left, functools.partial(some, size), loop)
    return loop[1]

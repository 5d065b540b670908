"""Functions that are computed in one way and differentiated in another."""

from collections.abc import Callable
from typing import Any

import jax


def is_zero(tangent: Any) -> bool:
    """Whether a rule with symbolic zeros was given one: then nothing need be computed."""
    return isinstance(tangent, jax.custom_derivatives.SymbolicZero)


def differentiated_as(exact: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Gives a function the derivatives of `exact`, which has the same arguments and, to rounding, the same value.

    Only arguments that are really differentiated are traced through `exact`.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        computed = jax.custom_jvp(function)

        def rule(primals, tangents):
            leaves, structure = jax.tree.flatten(primals)
            dots = structure.flatten_up_to(tangents)
            active = {i: dot for i, dot in enumerate(dots) if not is_zero(dot)}

            def at(values):
                moved = [values.get(i, leaf) for i, leaf in enumerate(leaves)]
                return exact(*jax.tree.unflatten(structure, moved))

            along = jax.jvp(at, ({i: leaves[i] for i in active},), (active,))[1]
            return computed(*primals), along

        computed.defjvp(rule, symbolic_zeros=True)
        return computed

    return decorate

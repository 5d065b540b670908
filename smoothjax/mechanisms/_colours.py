"""One colour and one look of a curve for each mechanism, in every figure."""

from typing import Any, NamedTuple

from .._checks import shown
from .._figure import COLOURS, DASHES, FURTHER, MARKERS
from .._kinds import checks_kinds
from ._mechanism import names

_PALETTE = (*COLOURS, *FURTHER)


class Look(NamedTuple):
    """How a mechanism's curve is drawn, so that it is told apart from others that it lies on, with colours and without.

    Attributes:
        colour: `#rrggbb`.
        dashes: a line style of matplotlib's.
        marker: of matplotlib's.

    Example:
        >>> import smoothjax as sj
        >>> sj.mechanisms.looks_of(("empirical",))["empirical"].dashes
        '-'
    """

    colour: str
    dashes: Any
    marker: str


@checks_kinds
def colour_of(name: str) -> str:
    """The colour of a mechanism in all figures, `#rrggbb`: by its place among those registered, grey for what is none.

    Example:
        >>> import smoothjax as sj
        >>> sj.mechanisms.colour_of("empirical") != sj.mechanisms.colour_of("gaussian")
        True
        >>> sj.mechanisms.colour_of("network")
        '#777777'
    """
    return _PALETTE[names().index(name) % len(_PALETTE)] if name in names() else "#777777"


@checks_kinds
def looks_of(shown_names: tuple[str, ...]) -> dict[str, Look]:
    """How the curves of one figure are drawn, by name: mechanisms as in every figure, others in colours that are left.

    Args:
        shown_names: of all curves of the figure: registered mechanisms, and what else is compared with them.

    Example:
        >>> import smoothjax as sj
        >>> looks = sj.mechanisms.looks_of(("gaussian", "mine", "yours"))
        >>> looks["gaussian"].colour == sj.mechanisms.colour_of("gaussian")
        True
        >>> len({look.colour for look in looks.values()})
        3
    """
    if not all(isinstance(name, str) for name in shown_names):
        raise ValueError(f"`shown_names` must be names; got {shown(shown_names)}.")
    known = names()
    taken = {colour_of(name) for name in shown_names if name in known}
    left = [colour for colour in reversed(_PALETTE) if colour not in taken] or list(_PALETTE)
    looks, others = {}, 0
    for name in shown_names:
        if name in known:
            place, colour = known.index(name), colour_of(name)
        else:
            place, colour = len(known) + others, left[others % len(left)]
            others += 1
        looks[name] = Look(colour, DASHES[place % len(DASHES)], MARKERS[place % len(MARKERS)])
    return looks

"""One colour for each mechanism, in every figure."""

from .._figure import COLOURS, FURTHER
from .._kinds import checks_kinds
from ._mechanism import names


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
    palette = (*COLOURS, *FURTHER)
    return palette[names().index(name) % len(palette)] if name in names() else "#777777"

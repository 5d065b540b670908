"""Things that have a name: registered where they are written, and found by what users type."""

from typing import Generic, Protocol, TypeVar, runtime_checkable


@runtime_checkable
class Named(Protocol):
    """What can be registered."""

    @property
    def name(self) -> str: ...


_Entry = TypeVar("_Entry", bound=Named)


class Registry(Generic[_Entry]):
    """Entries of one kind by name, in the order of registration.

    Args:
        kind: what users call one of them.
        taken: what they are told of a name that is taken.
    """

    def __init__(
        self, kind: str, taken: str = "is registered already; `replace=True` takes its place"
    ):
        self._kind, self._taken = kind, taken
        self.entries: dict[str, _Entry] = {}

    def register(self, entry: _Entry, *, replace: bool = False) -> _Entry:
        """Makes an entry available by its name, or `ValueError` where that is taken and nothing is to be replaced."""
        if entry.name in self.entries and not replace:
            article = "An" if self._kind[0] in "aeiou" else "A"
            raise ValueError(f"{article} {self._kind} called {entry.name!r} {self._taken}.")
        self.entries[entry.name] = entry
        return entry

    def get(self, name: str) -> _Entry:
        """The entry of that name, or `ValueError` with the names there are."""
        if name not in self.entries:
            raise ValueError(
                f"There is no {self._kind} called {name!r}; there are: {', '.join(self.entries)}."
            )
        return self.entries[name]

    def names(self) -> tuple[str, ...]:
        """Names of all entries, in the order of registration."""
        return tuple(self.entries)

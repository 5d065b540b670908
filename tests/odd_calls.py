"""Calls of public functions with one wrong or odd argument, generated from the calls that their examples make."""

import contextlib
import doctest
import inspect
import io
import sys

import numpy as np


class Plain:
    """An object that nothing can be made of."""

    def __repr__(self):
        return "<Plain>"


# What is put in place of an argument.
ODD = {
    "text": "odd",
    "object": Plain(),
    "None": None,
    "empty list": [],
    "empty dictionary": {},
    "NaN": float("nan"),
    "complex": 1j,
    "-1": -1,
    "0": 0,
    "True": True,
    "more axes": np.zeros((2, 3, 4, 5, 6)),
    "huge": 1e30,
}


class _NotedError(BaseException):
    """Ends an example when the call has been noted: what it would give is the business of the example itself."""


def calls_of_examples(names):
    """Of each public name, the arguments of the first call that its own example makes: `{name: (function, bound)}`."""
    found = {}
    for name, value in names.items():
        text = inspect.getdoc(value) or ""
        test = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)
        if not test.examples:
            continue
        calls = []
        with _recorded(value, calls), contextlib.redirect_stdout(io.StringIO()):
            space = {**vars(sys.modules[value.__module__])}
            with contextlib.suppress(_NotedError):
                for example in test.examples:
                    exec(compile(example.source, name, "single"), space)
        if calls:
            found[name] = (value, calls[0])
    return found


class _Noting:
    """Stands for a public name, and notes how it is called, the first time."""

    def __init__(self, value, calls):
        self._value, self._calls = value, calls
        self._signature = inspect.signature(value)

    def __call__(self, *args, **kwargs):
        try:
            self._calls.append(self._signature.bind(*args, **kwargs))
        except TypeError:
            return self._value(*args, **kwargs)
        raise _NotedError

    def __getattr__(self, name):
        return getattr(self._value, name)

    def __instancecheck__(self, other):
        return isinstance(other, self._value)


@contextlib.contextmanager
def _recorded(value, calls):
    """While this lasts, the public name notes how it is called."""
    noting = _Noting(value, calls)
    modules = [m for name, m in list(sys.modules.items()) if name.startswith("smoothjax")]
    found = [(module, key, other) for module in modules for key, other in vars(module).items()]
    places: list[tuple] = [
        (module, key, value, noting) for module, key, other in found if other is value
    ]
    # A constructor lies in its class.
    for owner in {other for *_, other in found if inspect.isclass(other)}:
        for key, other in list(vars(owner).items()):
            if isinstance(other, classmethod) and other.__func__ is value:
                instead = classmethod(lambda *args, **kwargs: noting(*args, **kwargs))
                places.append((owner, key, other, instead))
    for place, key, _, instead in places:
        setattr(place, key, instead)
    try:
        yield
    finally:
        for place, key, before, _ in places:
            setattr(place, key, before)

"""Calls of public functions with one wrong or odd argument, generated from the calls that their examples make."""

import contextlib
import doctest
import inspect
import io
import sys


class Plain:
    """An object that nothing can be made of."""

    def __repr__(self):
        return "<Plain>"


# What is put in place of an argument.
ODD = {"text": "odd", "object": Plain()}


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
            space = {}
            for example in test.examples:
                exec(compile(example.source, name, "single"), space)
                if calls:
                    break
        if calls:
            found[name] = (value, calls[0])
    return found


@contextlib.contextmanager
def _recorded(value, calls):
    """While this lasts, the public name notes how it is called."""
    signature = inspect.signature(value)

    def noting(*args, **kwargs):
        with contextlib.suppress(TypeError):
            calls.append(signature.bind(*args, **kwargs))
        return value(*args, **kwargs)

    places = [
        (module, key)
        for module_name, module in list(sys.modules.items())
        if module_name.startswith("smoothjax")
        for key, other in list(vars(module).items())
        if other is value
    ]
    for module, key in places:
        setattr(module, key, noting)
    try:
        yield
    finally:
        for module, key in places:
            setattr(module, key, value)

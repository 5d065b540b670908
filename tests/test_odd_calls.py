"""Every argument of every public function, replaced by what it cannot be: refused by name, in one line, by this package."""

import contextlib
import traceback

import pytest
from odd_calls import ODD, calls_of_examples
from test_examples_everywhere import NAMES, WITHOUT

KINDS = ("text", "object", "dictionary", "complex")
_RESULT = "a field of a plain result, which holds what it is given"
_ANY = "anything is a meaning"
# Arguments that take what is replaced here, and why: of a name as a whole, or of one argument.
TAKEN: dict[str, str] = {}


def odd_calls(name):
    """`(argument, kind, call)` of one public name."""
    for function, bound in calls_of_examples({name: NAMES[name]}).values():
        for argument, right in bound.arguments.items():
            parameter = bound.signature.parameters[argument]
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            for kind in KINDS:
                arguments = {**bound.arguments, argument: ODD[kind](right)}
                call = type(bound)(bound.signature, arguments)
                yield (
                    argument,
                    kind,
                    lambda call=call, function=function: function(*call.args, **call.kwargs),
                )


def outcome(argument, call):
    """What is wrong with the refusal of a call; None where it is as it should be."""
    try:
        call()
    except (ValueError, TypeError) as error:
        text, last = str(error), traceback.extract_tb(error.__traceback__)[-1].filename
        if "site-packages" in last or "/smoothjax/" not in last:
            return f"raised from inside {last}: {text}"
        if f"`{argument}" not in text:
            return f"does not name the argument: {text}"
        return None
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "accepted"


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(WITHOUT) - {"cli.main"}))
def test_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrong = []
    with contextlib.suppress(ImportError):
        for argument, kind, call in odd_calls(name):
            if name in TAKEN or f"{name} {argument}" in TAKEN:
                continue
            found = outcome(argument, call)
            if found is not None:
                wrong.append(f"{argument}, {kind}: {found[:300]}")
    assert not wrong, "\n".join(wrong)

"""Every argument of every public function, replaced by what it cannot be: refused by name, in one line, by this package."""

import contextlib
import inspect
import os
import re
import traceback
import types
import typing

import pytest
from odd_calls import ODD, calls_of_examples
from test_examples_everywhere import NAMES, WITHOUT

# Names whose arguments are not checked.
_RESULT = "a plain result, which holds what it is given"
TAKEN: dict[str, str] = dict.fromkeys(
    (
        *("Estimate", "Diagnosis", "FlowSolution", "LikelihoodSolution", "PatchCalibration"),
        *("denoisers.CertifiedMean", "experiments.Standardization", "gaussian.EllipticalKurtosis"),
        *("Explanation", "experiments.Verdict"),
        *("learning.Preconditioning", "learning.TrainingRun", "measures.GeneralizationScore"),
        *("measures.IntervalEstimate", "measures.MemorizationFraction"),
        "measures.SameNoiseSimilarity",
        *("mechanisms.Look", "mechanisms.StrengthChoice"),
        *("measures.StrongGeneralization", "smoothing.LineSpread", "smoothing.SmoothestScore"),
        *("variance.EndpointMoments", "variance.Semiclassical"),
        *("regimes.Collapse", "regimes.InformationCurve", "regimes.UTurn"),
        *("measures.RankTest", "regimes.DimensionTest"),
    ),
    _RESULT,
)
TAKEN["interop.from_edm"] = "its example needs a file that is not here"
_NOTHING = "of nothing there is nothing"
_ZERO = "zero is in the range"
_ANY = "any number means something"
_WHOLE = "the refusal is about what it makes of the other arguments"
# What is right to take, or to refuse without a name, beside what `_is_meant` knows: (name, argument): kinds and why.
LEGAL: dict[tuple[str, str], tuple[str, str]] = {
    ("ExplainSettings", "candidates"): ("empty list", "those that suit the data"),
    ("ExplainSettings", "levels"): ("empty list", "those that suit the data"),
    ("ExplainSettings", "num_samples"): ("0", "none"),
    ("GuidedDenoiser", "weight"): ("-1, 0", _ANY),
    ("experiments.memorization_regimes", "num_turns"): ("0", "none"),
    ("gaussian.guided_gaussian_law", "weight"): ("-1, 0", _ANY),
    ("KernelLaw.gradient_flow", "duration"): ("huge", _WHOLE),
    ("PiecewiseLinearDenoiser", "kappa"): ("0", _ZERO),
    ("WienerMaskDenoiser", "threshold"): ("0", _ZERO),
    ("datasets.load", "seed"): ("0", _ZERO),
    ("flow", "sigma_to"): ("0", _ZERO),
    ("learning.train", "model"): ("more axes", "the loss is not a number then"),
    ("learning.weight_penalty", "model"): ("more axes", "an array is a model of one layer"),
    ("measures.wilson_interval", "count"): (
        "empty list, 0, more axes",
        _NOTHING + ", and 0 counts",
    ),
    ("measures.wilson_interval", "num"): ("empty list, huge", _NOTHING),
    ("mechanisms.looks_of", "shown_names"): ("empty list", "of no curves there are no looks"),
    ("normalised_mse", "sigma"): ("huge", _WHOLE),
    ("parametrization.from_denoised", "sigma"): ("NaN, 0", "NaN for NaN, and the limit"),
    ("parametrization.to_denoised", "sigma"): ("NaN, 0", "NaN for NaN, and the limit"),
    ("parametrization.as_prediction", "value"): ("all", "named as the second argument says"),
    ("piecewise_linear_flow", "kappa"): ("0", _ZERO),
    ("smoothing.PiecewiseLinearLaw", "kappa"): ("0", _ZERO),
    ("smoothing.line_spread", "kappa"): ("None, 0", "None stands for the exact law"),
    ("smoothing.line_spread", "levels"): ("empty list", _NOTHING),
    ("smoothing.piecewise_linear_non_smoothness", "kappa"): ("0", _ZERO),
    ("smoothing.small_noise_loss", "kappa"): ("0", _ZERO),
    ("smoothing.smoothest_score", "sigma"): ("huge", _WHOLE),
    ("smoothing.smoothing_loss", "kappa"): ("0", _ZERO),
    ("variance.FourierSeries", "num_cosines"): ("0", _ZERO),
    ("variance.FourierSeries", "num_sines"): ("0", _ZERO),
    ("variance.GaussianBumps.evenly", "low"): ("-1, 0", _ANY),
    ("variance.GaussianBumps.evenly", "high"): ("-1, 0", _ANY),
    ("variance.ReLUTangentKernel", "bias_scale"): ("-1, 0", _ANY),
    ("variance.UniformTimes", "low"): ("0", _ZERO),
    ("variance.flow_of_models", "sigma_to"): ("0", _ZERO),
    ("smoothing.stable_fixed_points", "low"): ("-1, 0", _ANY),
    ("smoothing.stable_fixed_points", "high"): ("-1, 0", _ANY),
}


def odd_calls(name):
    """`(argument, parameter, kind, call)` of one public name, but for what needs no call."""
    for function, bound in calls_of_examples({name: NAMES[name]}).values():
        for argument, given in bound.arguments.items():
            parameter = bound.signature.parameters[argument]
            if argument == "cls" or parameter.kind in (
                parameter.VAR_POSITIONAL,
                parameter.VAR_KEYWORD,
            ):
                continue
            parts = _parts(parameter.annotation)
            legal, _ = LEGAL.get((name, argument), ("", ""))
            for kind, odd in ODD.items():
                if legal == "all" or kind in legal.split(", ") or _is_default(parameter, kind):
                    continue
                if kind == "0" and _may_be_zero(NAMES[name], argument):
                    continue
                # A number beyond those of JAX where an integer is asked for.
                integer = kind == "huge" and isinstance(given, int) and float not in parts
                arguments = {**bound.arguments, argument: 2**70 if integer else odd}
                call = type(bound)(bound.signature, arguments)
                yield (
                    argument,
                    None if integer else parameter,
                    kind,
                    lambda call=call, function=function: function(*call.args, **call.kwargs),
                )


def _may_be_zero(function, argument):
    """Whether the docstring says so of the argument."""
    text = inspect.getdoc(function) or ""
    entry = re.search(rf"^( +)(?:\w+, )*{argument}(?:, \w+)*: .*(?:\n\1 +.*)*", text, re.MULTILINE)
    says_so = r"\bfrom 0\b|\bnon-negative\b|\bnot negative\b|\bmay be 0\b"
    return entry is not None and re.search(says_so, entry[0]) is not None


def _is_default(parameter, kind):
    """Flags take True, and what is None by default takes None."""
    if kind == "True":
        return bool in _parts(parameter.annotation)
    return kind == "None" and parameter.default is None


def _is_meant(parameter, kind, error):
    """Whether the kind of thing is what the annotation says, so that it may be taken, or fail for what it is."""
    parts = _parts(parameter.annotation)
    if kind == "text":
        named = str in parts or any(typing.get_origin(part) is os.PathLike for part in parts)
        return isinstance(error, FileNotFoundError) or (error is None and named)
    if kind == "huge":
        return error is None or type(error) in (RuntimeError, UserWarning)  # "diverged"
    elementwise = any("*" in getattr(part, "dim_str", "") for part in parts)
    numbers = ("empty list", "NaN", "-1", "0", "more axes")
    return error is None and elementwise and kind in numbers


def _parts(annotation):
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if union else (annotation,)


def outcome(argument, parameter, kind, call):
    """What is wrong with the answer to a call; None where it is as it should be."""
    try:
        call()
    except Exception as error:
        text, last = str(error), traceback.extract_tb(error.__traceback__)[-1].filename
        if parameter is not None and _is_meant(parameter, kind, error):
            return None
        if not isinstance(error, ValueError | TypeError):
            return f"{type(error).__name__}: {error}"
        if "site-packages" in last or "/smoothjax/" not in last:
            return f"raised from inside {last}: {text}"
        of_no_name = text.startswith("There is no ") and f"called {ODD['text']!r}" in text
        if f"`{argument}" not in text and not (kind == "text" and of_no_name):
            return f"does not name the argument: {text}"
        return f"has several lines: {text}" if "\n" in text else None
    return None if parameter is not None and _is_meant(parameter, kind, None) else "accepted"


@pytest.mark.parametrize("name", sorted(set(NAMES) - {*WITHOUT, *TAKEN}))
def test_refused(name, tmp_path, monkeypatch, own_registry, own_measures):
    monkeypatch.chdir(tmp_path)
    wrong = []
    with contextlib.suppress(ImportError):
        for argument, parameter, kind, call in odd_calls(name):
            found = outcome(argument, parameter, kind, call)
            if found is not None:
                wrong.append(f"{argument}, {kind}: {found[:300]}")
    assert not wrong, "\n".join(wrong)


def test_lists_hold_names_only():
    assert set(NAMES) >= {*WITHOUT, *TAKEN, *(name for name, _ in LEGAL)}
    assert all(legal == "all" or {*legal.split(", ")} <= {*ODD} for legal, _ in LEGAL.values())

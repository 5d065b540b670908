"""An explanation as files: the page with its figures, labelled numbers, and a table."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..._checks import import_optional, require_one_of
from ..._files.output import (
    FIGURE_KINDS,
    netcdf_of,
    require_folder,
    write_bytes,
    write_figures,
    write_text,
)
from ..._page import heading, items, page, paragraph, picture, table
from .classes import EACH
from .figures import CAPTIONS
from .measured import measure_at_level, shown_names
from .memorised import FEW, clearest_level
from .settings import mechanism_of

if TYPE_CHECKING:
    from .explanation import Explanation


def write(
    explanation: "Explanation",
    folder: str | os.PathLike[str],
    figures: tuple[str, ...],
    command: str | None,
) -> Path:
    """See `Explanation.report`."""
    for kind in figures:
        require_one_of(kind, FIGURE_KINDS, "figures")
    import_optional("h5netcdf")
    import_optional("h5py")
    folder = require_folder(folder, "folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "results.nc", netcdf_of(explanation.dataset))
    write_text(folder / "table.txt", f"{explanation!r}\n")
    pictures = write_figures(folder, explanation.figures(), figures, dpi=150)
    path = folder / "report.html"
    write_text(path, _page(explanation, pictures, command))
    return path


def _page(
    explanation: "Explanation", pictures: dict[str, bytes], command: str | None = None
) -> str:
    data = explanation.dataset
    parts = [
        heading("Verdict"),
        items(explanation.summary().splitlines(), "said"),
        table(*explanation.rows(), kind="verdicts"),
        items(_notes(explanation)),
        *(picture(png, CAPTIONS[name]) for name, png in pictures.items()),
        heading("How much it memorises"),
        paragraph(
            "Denoising loss of the network at noisy training and held-out points, and the share of the training points "
            "that a model would have to hold for as large a difference, if it were a perfect memoriser there and the "
            "network elsewhere. No share is given where a memoriser is no better than the network. After ± stands one "
            "standard error, here and below."
        ),
        table(*_memory_table(explanation)),
        *_most_memorised(explanation),
        *_generated(explanation),
        *_measures(explanation),
        heading("What the candidates are"),
        items(_candidate(explanation, str(name)) for name in data.candidate.values),
        heading("Distances from the network"),
        table(*_distances(explanation)),
    ]
    title = f"Which mechanism explains a network trained on {explanation.train.name}"
    return page(title, parts, explanation.manifest, command)


def _notes(explanation: "Explanation") -> list[str]:
    settings, data = explanation.settings, explanation.dataset
    notes = [
        f"{len(explanation.train)} training points in {explanation.train.dim} dimensions. Strengths are fitted at "
        f"{settings.num_calibration} held-out points plus noise; everything else is measured at {settings.num_evaluation} "
        "others.",
        f"Distance: root mean square a coordinate, in data units. Intervals of strengths and weights: "
        f"{settings.coverage:.0%}. What cannot be told from the best: paired over points, simultaneously over candidates at "
        f"{settings.confidence:.0%}.",
        "None: the nearest candidate is farther from the network than the others are from it by the median, or farther than "
        "the network is from the clean points, or explains less than two thirds of the network's departure from an "
        "untrained one, the posterior mean of an isotropic Gaussian.",
        f"Calls of the network, and of a second one where there is one, of one point each: {data.attrs['network_calls']:,}.",
        "Combination: of two candidates, at strengths of their own, shown where it is nearer than each single candidate.",
    ]
    label = settings.label
    if label is not None:
        each = (
            "each with its own label"
            if label == EACH
            else f"all of class {_class_name(explanation)}"
        )
        notes.append(
            f"A network of classes: held-out and training points, and samples, are shown to it with labels, {each}. A "
            "candidate by class is made of the training points of a class, any other of all of them."
        )
    if "is_at_floor" in data:
        at = [
            f"{', '.join(str(n) for n in data.candidate.values[kept])} at {float(sigma):.3g}"
            for sigma, kept in zip(
                data.sigma.values,
                data.is_at_floor.transpose("sigma", "candidate").values,
                strict=True,
            )
            if np.any(kept)
        ]
        notes.append(
            "No farther from the network than the second network is: "
            + ("; ".join(at) or "none")
            + "."
        )
    return notes


def _class_name(explanation: "Explanation") -> str:
    """The class of the whole run, with its name where it has one."""
    label, names = explanation.settings.label, explanation.train.label_names
    assert isinstance(label, int)
    return f"{label}" if names is None else f"{label} ({names[label]})"


def _memory_table(explanation: "Explanation") -> tuple[list[str], list[list[str]]]:
    data = explanation.dataset
    header = ["noise level", "training loss", "held-out loss", "difference", "memorised share"]
    rows = []
    for i in range(data.sizes["sigma"]):
        at = data.isel(sigma=i)
        share, error = float(at.memorized_share), float(at.memorized_share_se)
        rows.append(
            [
                f"{float(at.sigma):.3g}",
                f"{float(at.network_training_loss):.3g}",
                f"{float(at.network_loss):.3g}",
                f"{float(at.gap):.2g} ± {float(at.gap_se):.2g}",
                "-" if np.isnan(share) else f"{share:.2f} ± {error:.2f}",
            ]
        )
    return header, rows


def _most_memorised(explanation: "Explanation") -> list[str]:
    """The training points that are memorised most, at the noise level that shows it best."""
    data = explanation.dataset
    level = clearest_level(data)
    if level is None:
        return []
    at = data.isel(sigma=level)
    low = int((at.memorized_p <= FEW).sum())
    num = at.sizes["training_point"]
    text = (
        f"At noise level {float(at.sigma):.3g}, where the losses differ most in standard errors. Below held-out: by how "
        "many of their standard deviations the logarithm of the network's loss over that of the Gaussian denoiser lies "
        "below theirs; p: the share of held-out points as low. One noise for each point: what is listed is a first look. Of "
        f"{num} training points {low} have p of at most {FEW:.2g}, where {FEW * num:.3g} would of fresh ones."
    )
    header = ["training point", "below held-out", "p", "loss", "nearest other", "its distance"]
    rows = []
    for index in at.most_memorized.values:
        one = at.sel(training_point=index)
        rows.append(
            [
                f"{int(index)}",
                f"{float(one.memorized_z):.2f}",
                f"{float(one.memorized_p):.3f}",
                f"{float(one.training_loss):.3g}",
                f"{int(one.nearest_training)}",
                f"{float(one.nearest_training_distance):.3g}",
            ]
        )
    return [heading("Which training points most", 3), paragraph(text), table(header, rows)]


def _generated(explanation: "Explanation") -> list[str]:
    """What samples say, where there are any."""
    data = explanation.dataset
    if "samples" not in data:
        return []
    header = ["model", "memorised [95 %]", "distance from the network's"]
    if "mean_r2" in data:
        header += [f"R² with them, {name} [95 %]" for name in data.measure.values]
    rows = []
    for name in data.model.values:
        low, high = data.memorized_interval.sel(model=name).values
        row = [str(name), f"{float(data.memorized.sel(model=name)):.2f} [{low:.2f}, {high:.2f}]"]
        if name in data.candidate.values:
            one = data.sel(candidate=name)
            row.append(f"{float(one.map_distance):.3g} ± {float(one.map_distance_se):.1g}")
            if "mean_r2" in data:
                row += [
                    f"{mean:.2f} [{low:.2f}, {high:.2f}]"
                    for mean, (low, high) in zip(
                        one.mean_r2.values, one.r2_interval.values, strict=True
                    )
                ]
        rows.append(row + [""] * (len(header) - len(row)))
    text = (
        f"{data.sizes['sample']} samples of each, from the same noises, {explanation.settings.steps} calls each. Memorised: "
        "much nearer to one training point than to any other (d1/d2 < 1/3); of held-out points that is "
        f"{float(data.memorized_null):.2f}. Distance: root mean square a coordinate between samples of one noise. All "
        "samples have the data's mean in common, and many its covariance: the R² of the Gaussian is the bar."
    )
    return [heading("What it generates"), paragraph(text), table(header, rows)]


def _measures(explanation: "Explanation") -> list[str]:
    """Tables of the measures of the network and of all candidates, where any were asked for."""
    data = explanation.dataset
    parts = []
    for name in explanation.settings.measures:
        one = measure_at_level(name)
        values, errors = (data[key].transpose("model", "sigma").values for key in shown_names(one))
        rows = [
            [str(model)]
            + [
                "-" if np.isnan(value) else f"{value:.3g} ± {error:.1g}"
                for value, error in zip(*row, strict=True)
            ]
            for model, *row in zip(data.model.values, values, errors, strict=True)
        ]
        header = ["noise level", *(f"{float(level):.3g}" for level in data.sigma.values)]
        parts += [heading(one.description, 3), paragraph(one.note), table(header, rows)]
    if not parts:
        return []
    left_out = str(data.attrs["not_measured"])
    said = "At noisy held-out points, of the network and of each candidate at its fitted strength."
    said += f" Left out: {left_out}." if left_out else ""
    return [heading("Measures of each"), paragraph(said), *parts]


def _candidate(explanation: "Explanation", name: str) -> str:
    mechanism, _ = mechanism_of(name)
    assert mechanism.strength is not None
    at = explanation.dataset.sel(candidate=name)
    unit = "" if mechanism.strength.unit == "1" else f" ({mechanism.strength.unit})"
    fitted = ", ".join(f"{value:.3g}" for value in at.strength.values)
    form = "" if explanation.settings.label is None else f", {at.form.values}"
    meaning = f": {mechanism.strength.meaning}" if mechanism.strength.meaning else ""
    strength = f"{mechanism.strength.name}{unit}, fitted, by rising noise level {fitted}{meaning}"
    return f"{name}: {mechanism.description}{form}. Its {strength}."


def _distances(explanation: "Explanation") -> tuple[list[str], list[list[str]]]:
    data = explanation.dataset
    header = ["noise level", *(f"{float(level):.3g}" for level in data.sigma.values)]
    rows = [
        [
            str(name),
            *(
                f"{value:.3g} ± {error:.1g}"
                for value, error in zip(
                    data.rmse.sel(candidate=name).values,
                    data.rmse_se.sel(candidate=name).values,
                    strict=True,
                )
            ),
        ]
        for name in data.candidate.values
    ]
    for label, name in (
        ("best affine denoiser", "affine_rmse"),
        ("best combination", "combination_rmse"),
        ("untrained network", "untrained_rmse"),
        ("second network", "other_rmse"),
        ("clean points", "own_error"),
        ("other candidates from the nearest, by the median", "spread"),
    ):
        if name in data:
            rows.append([label, *(f"{value:.3g}" for value in data[name].values)])
    return header, rows

"""What a comparison comes to in words, what it says its mechanisms are, and several of them side by side."""

import json
import re

import numpy as np
import pytest
import scipy.stats

import smoothjax as sj
from smoothjax import cli, experiments, mechanisms, report
from smoothjax.experiments._compare import definitions as _definitions
from smoothjax.experiments._compare import summary as _summary

xarray = pytest.importorskip("xarray")
pytest.importorskip("matplotlib")


def results(likelihoods, memorized=None, null=(0.02, 0.0, 0.06)):
    """Labelled numbers of a comparison as its conclusions need them."""
    names = list(likelihoods)
    variables = {
        "log_likelihoods": (("mechanism", "point"), np.stack(list(likelihoods.values()))),
        "noise_floor": ((), 0.1),
    }
    if memorized is not None:
        shares = np.array([memorized[name] for name in names])
        variables |= {
            "memorized": ("mechanism", shares[:, 0]),
            "memorized_interval": (("mechanism", "bound"), shares[:, 1:]),
            "memorized_null": ((), null[0]),
            "memorized_null_interval": ("bound", np.array(null[1:])),
        }
    return xarray.Dataset(variables, coords={"mechanism": names})


def noisy(num=200, seed=0):
    return np.random.default_rng(seed).normal(size=num)


def test_likelihoods_that_differ_are_told_apart_with_their_paired_error():
    common = 100 * noisy()  # of the points, far more than the difference
    difference = 3 + noisy(seed=1)
    found = _summary.conclusions(results({"a": common, "b": common + difference}))
    error = scipy.stats.sem(difference)
    assert found == [
        "Held-out points (at noise level 0.1, 200 of them) are likeliest under b: "
        f"{difference.mean():.3f} ± {error:.3f} nats a point more than under a, the next."
    ]


def test_ties_are_ties():
    common, difference = noisy(), noisy(seed=3)
    difference -= difference.mean() - 0.01  # a seventh of a standard error
    values = {"a": common, "b": common + difference, "c": common - 5 + 0.1 * noisy(seed=2)}
    (said,) = _summary.conclusions(results(values))
    assert "b and a are tied for the likeliest" in said and "c" not in said.split(": ")[1]
    # Each of two equal mechanisms may be the best, and they differ by nothing.
    (said,) = _summary.conclusions(results({"a": common, "b": common}))
    assert "a and b are tied for the likeliest" in said and "b 0.000 ± 0.000" in said


@pytest.mark.parametrize("shift", [0.0, 1000.0, -1000.0])
def test_the_set_of_the_likeliest_does_not_depend_on_what_all_have_in_common(shift):
    values = np.stack([noisy(60, seed) for seed in range(4)]) + np.array(
        [[0.0], [0.1], [0.5], [2.0]]
    )
    found = _summary.may_be_likeliest(values + shift * noisy(60, 9)[None])
    np.testing.assert_array_equal(found, _summary.may_be_likeliest(values))
    assert found[3] and not found[0]


def test_the_likeliest_is_in_its_set_as_often_as_is_said():
    """Two of one mean: the set loses either in at most a twentieth of the draws, to four standard errors of 300 of them."""
    rng = np.random.default_rng(0)
    lost = 0
    for _ in range(300):
        lost += not _summary.may_be_likeliest(rng.normal(size=(2, 80))).all()
    assert lost / 300 < 2 * 0.05 + 4 * np.sqrt(0.1 * 0.9 / 300)
    assert lost / 300 > 0.02


def test_points_that_were_not_taken_of_all_are_left_out_and_infinities_are_said():
    few = noisy()
    few[64:] = np.nan
    first = np.append(noisy(199, 1), -np.inf)
    said = _summary.conclusions(
        results({"few": few, "infinite": first, "other": noisy(seed=2) - 9})
    )
    assert said[0] == "infinite has no finite likelihood at some held-out points."
    difference = (few - (noisy(seed=2) - 9))[:64]
    assert "64 of them" in said[1] and f"under few: {difference.mean():.2f}" in said[1]


def test_smoothing_is_held_against_both_references():
    common = noisy()
    values = {
        "gaussian": common + 0.05 * noisy(seed=1),
        "mixture": common + 2 + 0.05 * noisy(seed=2),
        "widened": common + 0.05 * noisy(seed=3),
    }
    values["widened"] += (values["gaussian"] - values["widened"]).mean()
    said = _summary.conclusions(results(values))
    gap = values["widened"] - values["mixture"]
    reach = f"does not reach mixture ({gap.mean():.3f} ± {scipy.stats.sem(gap):.3f})"
    assert "widened is tied with gaussian" in said[-1] and reach in said[-1]
    values["widened"] = values["widened"] + 10
    assert "widened beats gaussian" in _summary.conclusions(results(values))[-1]


def test_smoothing_is_told_from_all_references_at_once():
    common, gap = noisy(), noisy(seed=4)
    # Either of two may be the better one: Student's two-sided quantiles are 1.97 at 95 % and 2.26 at 97.5 %, and a gap
    # between them is enough for one pair, too little for two.
    gap += 2.1 * scipy.stats.sem(gap) - gap.mean()
    one = {"gaussian": common, "widened": common + gap}
    assert "widened beats gaussian" in _summary.conclusions(results(one))[-1]
    two = {"mixture": common, **one}
    said = _summary.conclusions(results(two))[-1]
    assert "is tied with gaussian" in said and "is tied with mixture" in said


def test_copies_are_told_from_those_among_held_out_points_by_intervals():
    values = {name: noisy() for name in ("a", "b", "c", "d")}
    memorized = {
        "a": (1, 0.9, 1),
        "b": (0.04, 0.01, 0.08),
        "c": (0.2, 0.07, 0.3),
        "d": (0.05, 0.0, 0.06),
    }
    said = _summary.conclusions(results(values, memorized))
    assert said[0] == (
        "a (1.00 [0.90, 1.00]) and c (0.20 [0.07, 0.30]) memorise: in brackets the share of samples that are copies of "
        "training points, which is 0.02 [0.00, 0.06] among held-out points."
    )
    assert said[1].endswith("can be seen among the samples of b and d.")
    said = _summary.conclusions(results(values, memorized, (0.6, 0.5, 0.7)))
    assert said[1].startswith(
        "Fewer copies than among held-out points are among the samples of b, c and d"
    )


class Outermost:
    """A choice of one value."""

    def __init__(self, value, num_kept):
        self.values, self.num_kept = np.array([value]), num_kept


@pytest.mark.parametrize(
    ("name", "place", "end"), [("widened", 0, -1), ("widened", -1, 1), ("widened", 5, 0)]
)
def test_a_strength_at_an_end_of_what_was_tried_is_noticed(name, place, end):
    points = np.random.default_rng(0).normal(size=(50, 2))
    train = sj.datasets.Dataset("t", points)
    strength = mechanisms.get(name).strength
    values = strength.values(train.split(40, seed=2)[0])
    choice = Outermost(values[place], 40)
    assert _definitions.ends_of(strength, choice, train, 2).tolist() == [end]
    # A search stops a little before the bound, and well inside of it nothing is said.
    step = values[1] / values[0]
    near = values[place] * step ** (-0.04 * end)
    assert _definitions.ends_of(strength, Outermost(near, 40), train, 2).tolist() == [end]
    inside = values[place] * step ** (-0.2 * end)
    assert _definitions.ends_of(strength, Outermost(inside, 40), train, 2).tolist() == [0]


def test_nothing_lies_below_a_patch_of_one_pixel():
    train = sj.datasets.Dataset(
        "t", np.random.default_rng(0).normal(size=(50, 36)), image_shape=(6, 6, 1)
    )
    strength = mechanisms.get("local").strength
    ends = [_definitions.ends_of(strength, Outermost(x, 40), train, 0)[0] for x in (1, 3, 5)]
    assert ends == [0, 0, 1]


def test_definitions_hold_the_values_of_strengths():
    train = sj.datasets.two_points()
    chosen = [mechanisms.get(name) for name in ("gaussian", "widened", "noise-blind")]
    first, second, third = _definitions.registered(chosen, {}, train, 0)
    assert ". Its shrinkage, 0 here: the share of the covariance" in first
    width = chosen[1].strength.default(train)
    assert f". Its width (data units), {width:.3g} here: the standard deviation" in second
    assert third == f"noise-blind: {chosen[2].description}."
    given = _definitions.given({"mine": lambda u, s: u, "g": sj.GaussianDenoiser.fit(train.points)})
    assert given == (
        "mine: given to this comparison, a function.",
        "g: given to this comparison, a GaussianDenoiser.",
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two finished comparisons by the command, which differ in the seed, and the lines that made them."""
    base, lines = tmp_path_factory.mktemp("runs"), []
    for seed, names in (("0", ["empirical", "gaussian"]), ("1", ["gaussian"])):
        arguments = [
            "compare",
            "two-points",
            "--out",
            str(base / f"run {seed}"),
            "--denoisers",
            *names,
        ]
        arguments += ["--num-samples", "8", "--steps", "4", "--num-levels", "2", "--seed", seed]
        assert cli.main([*arguments, "--figures", "svg"]) == 0
        lines.append(arguments)
    return base, lines


def test_page_begins_with_conclusions_and_says_how_it_was_made(folders):
    base, _ = folders
    page = (base / "run 1" / "report.html").read_text()
    line = (
        f"smoothjax compare two-points --out &#x27;{base}/run 1&#x27; --denoisers gaussian --num-samples 8 --seed 1 "
        "--steps 4 --num-levels 2 --figures svg"
    )
    assert line in page
    assert (
        page.index("What it comes to")
        < page.index("<table>")
        < page.index("What the mechanisms are")
    )
    words = json.loads((base / "run 0" / "report.json").read_text())
    found = experiments.read_comparison(base / "run 0")
    assert words["summary"] == found.summary().splitlines() and words["command"] == found.command
    assert found.definitions[1].startswith("gaussian: optimal for a Gaussian")
    assert (base / "run 0" / "curves.svg").read_bytes().startswith(b"<?xml")
    assert not (base / "run 0" / "curves.pdf").exists()
    # Every picture has a text.
    assert len(re.findall(r'<img alt="[^"]{20,}" src', page)) == page.count("<img")


def test_comparisons_side_by_side(folders, tmp_path, capsys):
    base, _ = folders
    runs = [base / "run 0", base / "run 1"]
    path = tmp_path / "new" / "page.html"
    arguments = ["report", *map(str, runs), "--out", str(path), "--figures", "pdf"]
    assert cli.main(arguments) == 0
    assert str(path) in capsys.readouterr().out
    page = path.read_text()
    assert not re.search(r'(?:src|href)="(?!data:)', page) and page.count("data:image/png") == 2
    assert (path.parent / "page-curves.pdf").read_bytes().startswith(b"%PDF")
    shown = re.sub(r'<span class="pad">[^<]*</span>', "", page)
    assert "<tr><td>seed</td><td>0</td><td>1</td></tr>" in shown
    assert "<tr><td>mechanisms</td><td>empirical, gaussian</td><td>gaussian</td></tr>" in shown
    assert "<td>num_samples</td>" not in shown  # the same in both
    assert "Log-likelihoods are of different points" in shown
    read = {folder.name: experiments.read_comparison(folder) for folder in runs}
    one = read["run 1"].results
    cell = f"{float(one.memorized[0]):.2f} [{float(one.memorized_interval[0, 0]):.2f}, "
    row = re.search(r"<tr><td>gaussian</td><td>.*?</td><td>(.*?)</td></tr>", shown).group(1)
    assert row.startswith(cell)
    assert "<tr><td>empirical</td><td>1.00 [0.68, 1.00]</td><td></td></tr>" in shown
    # The curves are those of the results.
    axes = sj.plots.figures_of_several(read)["curves"].axes
    of_gaussian = next(ax for ax in axes if ax.get_title(loc="left") == "gaussian")
    (line,) = of_gaussian.lines  # the other one has no empirical denoiser to be far from
    expected = read["run 0"].results.rmse.sel(mechanism="gaussian", other="empirical")
    np.testing.assert_array_equal(line.get_ydata(), expected)


def test_what_is_no_finished_comparison_is_refused(folders, tmp_path, capsys):
    base, _ = folders
    one, two = base / "run 0", base / "run 1"
    with pytest.raises(ValueError, match="`folders` must be at least two folders"):
        report.side_by_side((one,), tmp_path / "page.html")
    with pytest.raises(ValueError, match="must differ; got one twice"):
        report.side_by_side((one, one), tmp_path / "page.html")
    with pytest.raises(ValueError, match=r"must be a file that ends in \.html"):
        report.side_by_side((one, two), tmp_path)
    with pytest.raises(ValueError, match=r"holds no results\.nc"):
        report.side_by_side((one, tmp_path), tmp_path / "page.html")
    other = tmp_path / "explanation"
    other.mkdir()
    (other / "manifest.json").write_text('{"configuration": {}}')
    xarray.Dataset(coords={"candidate": ["a"]}).to_netcdf(other / "results.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match="holds the results of an explanation"):
        report.side_by_side((one, other), tmp_path / "page.html")
    (other / "results.nc").write_bytes(b"cut short")
    assert cli.main(["report", str(one), str(other), "--out", str(tmp_path / "page.html")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_folders_of_earlier_releases_are_read(folders, tmp_path):
    """Without the words, the ends of strengths and the null's interval, which they do not have."""
    base, _ = folders
    old = tmp_path / "old"
    old.mkdir()
    with xarray.open_dataset(base / "run 0" / "results.nc", engine="h5netcdf") as stored:
        before = stored.load().drop_vars("memorized_null_interval")
    before.attrs["measures"] += " gone"
    before.to_netcdf(old / "results.nc", engine="h5netcdf")
    (old / "manifest.json").write_text((base / "run 0" / "manifest.json").read_text())
    found = experiments.read_comparison(old)
    assert found.command is None and found.definitions == ()
    new = experiments.read_comparison(base / "run 0")
    assert found.summary() == "\n".join(
        line for line in new.summary().splitlines() if "copies" not in line
    )
    columns = found.cells()
    null = columns["memorised [95 %]"]
    null["held-out data"] = new.cells()["memorised [95 %]"]["held-out data"]
    assert columns == new.cells()
    page = report.side_by_side((old, base / "run 0"), tmp_path / "page.html").read_text()
    assert "Nothing: the settings are the same." in page
    assert "This folder does not say what its mechanisms are." in page

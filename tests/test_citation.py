"""What is cited: each source that a docstring names is an entry of the one bibliography, and nothing else is."""

import ast
import re
import unicodedata
from pathlib import Path

import jax.numpy as jnp
import pytest
from test_examples_everywhere import NAMES

import smoothjax as sj
from smoothjax import _citation

ROOT = Path(__file__).parent.parent
# Public names whose source is no paper, and what it is.
_OWN = "derived here"
NOT_PAPERS = {
    "NoiseUnconditionedDenoiser": _OWN,
    "enable_compilation_cache": "a web page",
    "gaussian.third_cumulant_norm": _OWN,
    "terminal_mismatch_bound": _OWN,
}


def _docstrings():
    """Those of all classes and functions, by where they are, whether public or not."""
    for path in sorted((ROOT / "smoothjax").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and (
                text := ast.get_docstring(node)
            ):
                yield f"{path.stem}.{node.name}", node.name, text


def _without_accents(text):
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


@pytest.fixture(scope="module")
def entries():
    """The bibliography as another program reads it."""
    database = pytest.importorskip("pybtex.database")
    return database.parse_file(ROOT / "smoothjax" / "references.bib").entries


def _families(entry):
    """Family names, with what stands before them ("de", "von")."""
    parts = ((*one.rich_prelast_names, *one.rich_last_names) for one in entry.persons["author"])
    return [_without_accents(" ".join(map(str, part))) for part in parts]


def test_the_bibliography_is_read_as_others_read_it(entries):
    ours = _citation._bibliography()
    assert list(ours) == list(entries) and len(ours) > 80
    for key, entry in entries.items():
        assert ours[key].fields.get("year") == entry.fields.get("year"), key
        assert ours[key].fields["title"] == entry.fields["title"], key
        names = ours[key].fields["author"].split(" and ")
        assert [_citation._plain(one.partition(",")[0]) for one in names] == _families(entry), key


def test_entries_are_consistent(entries):
    numbers = {}
    for key, entry in entries.items():
        if key == "smoothjax":
            continue
        assert 1900 < int(entry.fields["year"]) < 2030 and entry.fields["year"] in key, key
        number = re.fullmatch(r"arXiv:(\d{4}\.\d{5})", entry.fields.get("note", ""))
        if number:
            assert entry.fields["url"] == f"https://arxiv.org/abs/{number[1]}", key
            # Of the preprint, which is no younger than the paper.
            assert 2000 + int(number[1][:2]) <= int(entry.fields["year"]), key
            assert numbers.setdefault(number[1], key) == key
    titles = [entry.fields["title"].lower() for entry in entries.values()]
    assert len(set(titles)) == len(titles)


def test_every_source_is_in_the_bibliography(entries):
    """The years and numbers of preprints of each source are those of what it resolves to, which its authors wrote."""
    used, without = set(), set()
    for place, name, docstring in _docstrings():
        assert not re.search(r"^ *(References?|Sources):", docstring, re.MULTILINE), place
        source = _citation._section(docstring)
        assert bool(source) == bool(re.search(r"^ *Source:", docstring, re.MULTILINE)), place
        if not source:
            continue
        keys = _citation._keys(source)
        used.update(keys)
        if not keys:
            without.add(name)
            continue
        text = _without_accents(source)
        preprints = re.findall(r"arXiv (\d{4}\.\d{5})", text)
        years = re.findall(r"\b(?:19|20)\d\d\b(?!\.\d)", text)
        cited = [entries[key] for key in keys]
        notes = [entry.fields.get("note") for entry in cited]
        assert all(f"arXiv:{number}" in notes for number in preprints), place
        known = {entry.fields["year"] for entry in cited}
        assert set(years) <= known and len(years) <= len(keys), (place, years, keys)
        for entry in cited:
            assert _families(entry)[0] in text, (place, entry.key)
            assert entry.fields["year"] in years or entry.fields["note"][6:] in preprints, place
        assert text.count("et al.") <= len(keys), place
    assert used == set(entries) - {"smoothjax"}, "entries that nothing names"
    assert without == {name.rpartition(".")[2] for name in NOT_PAPERS}


def test_public_names_are_cited_or_refused():
    assert set(NOT_PAPERS) <= set(NAMES)
    cited = 0
    for name, subject in NAMES.items():
        if name in NOT_PAPERS:
            with pytest.raises(ValueError, match="`subject` must be something"):
                sj.citation(subject)
        elif _citation._section(subject.__doc__):
            assert sj.citation(subject).startswith("@"), name
            cited += 1
    assert cited > 100


def _keys(text):
    return re.findall(r"^@\w+\{(\w+),$", text, re.MULTILINE)


def test_what_is_cited():
    law = sj.GaussianDenoiser(jnp.zeros(1), jnp.eye(1))
    widened = sj.WidenedDenoiser(jnp.zeros((1, 1)), 1.0)
    line = sj.LineDenoiser(widened, jnp.array([1.0, 0.0]), jnp.zeros(2))
    gaussian, kernel = ["li2024hidden", "wiener1949"], ["parzen1962", "vincent2011"]
    cases = [
        (sj.GaussianDenoiser, gaussian),
        (law, gaussian),
        (sj.GaussianDenoiser.fit, ["tipping1999", "ledoit2004"]),
        (sj.GaussianDenoiser.low_rank, gaussian),  # of its class: it names none
        (law.log_density, gaussian),
        (sj.WidenedDenoiser, kernel),
        # An object is made of another: of the points whose law it widens.
        ([law, widened, law], [*gaussian, *kernel, "karras2022edm"]),
        (sj.flow, ["song2021sde", "karras2022edm"]),
        (sj.VariancePreserving(), ["song2021sde"]),
        (sj.training_dynamics.RandomFeatureLimit, ["bonnaire2025memorize", "george2025features"]),
    ]
    for subject, keys in cases:
        assert _keys(sj.citation(subject)) == keys, subject
    # What it is made of, and the points along it, too.
    assert _keys(sj.citation(line))[:3] == ["chen2026smoothing", *kernel]


def test_a_class_of_a_user():
    class Mine(sj.GaussianDenoiser):
        """A law of mine."""

    class Theirs(sj.GaussianDenoiser):
        """A law of others.

        Source: Karras et al. 2022, and Jöreskog 1967, which is
        older; "Wang et al. 2026" without more.
        """

    assert sj.citation(Mine) == sj.citation(sj.GaussianDenoiser)
    keys = ["karras2022edm", "joreskog1967", "wang2026consistency"]
    assert _keys(sj.citation(Theirs)) == keys


def test_text_that_names_no_paper():
    """Neither part of the authors, nor another year, nor another's name that ends alike."""
    for source in ("Li and Dai 2024", "Qu 2024", "Karras et al. 2023", "McBach 2024"):
        assert _citation._keys(source) == [], source
    assert _citation._keys("Li, Dai and Qu 2024") == ["li2024hidden"]
    assert _citation._keys("Li et al. 2024") == ["li2024hidden"]


def test_the_longer_name_wins(monkeypatch):
    def entry(author):
        fields = {"author": author, "year": "2020"}
        return _citation._Entry("", fields, _citation._named(fields))

    both = {"one": entry("Short, B."), "two": entry("Long, A. and Short, B.")}
    monkeypatch.setattr(_citation, "_bibliography", lambda: both)
    assert _citation._keys("Long and Short 2020; Short 2020") == ["two", "one"]


@pytest.mark.parametrize("subject", [3, "Karras et al. 2022", sj.Estimate, sj.variance, []])
def test_what_has_no_source_is_refused(subject):
    with pytest.raises(ValueError, match="`subject` must be something of this library"):
        sj.citation(subject)


def test_the_library_itself(entries):
    """Its entry, and CITATION.cff, which forges read, agree with each other and with the bibliography."""
    yaml = pytest.importorskip("yaml")
    database = pytest.importorskip("pybtex.database")
    text = sj.citation()
    (own,) = database.parse_string(text, "bibtex").entries.values()
    file = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert own.fields["title"] == file["title"]
    (developers,) = file["authors"]
    assert own.fields["note"] == f"Version {sj.__version__}"
    assert f"{{{{{developers['name']}}}}}" in text
    by_title = {
        re.sub(r"[{}]", "", entry.fields["title"]): entry
        for key, entry in entries.items()
        if key != "smoothjax"
    }
    assert len(file["references"]) == 3
    for paper in file["references"]:
        entry = by_title[paper["title"]]
        people = [(one["family-names"], one["given-names"]) for one in paper["authors"]]
        authors = entry.persons["author"]
        names = [
            (" ".join(p.last_names), " ".join(p.first_names + p.middle_names)) for p in authors
        ]
        assert people == names
        assert str(paper["year"]) == entry.fields["year"] and paper["notes"] == entry.fields["note"]
        assert paper["url"] == entry.fields["url"]
        assert paper["conference"]["name"] == entry.fields["booktitle"]

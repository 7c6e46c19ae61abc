"""The embedded corpus: the same everywhere, of eight kinds, evenly mixed."""

import shutil
import sysconfig
from collections import Counter
from itertools import islice

import pytest

from deepseemoe.corpus import embedded, stdlib_tables, stdlib_text
from deepseemoe.corpus.documents import Document

FEW = ("argparse.py", "calendar.py", "json/decoder.py", "json/encoder.py", "textwrap.py")


@pytest.fixture(scope="module")
def corpus() -> list[Document]:
    return list(embedded.documents())


@pytest.fixture
def few_modules(monkeypatch):
    """Only a few modules, where the whole library would take seconds."""
    monkeypatch.setattr(
        stdlib_text, "module_files", lambda folder: iter([folder / name for name in FEW])
    )
    for table in ("unicode", "tables", "encodings"):
        whole = getattr(stdlib_tables, table)
        monkeypatch.setattr(stdlib_tables, table, lambda whole=whole: islice(whole(), 200))


def test_each_domain_has_text_enough(corpus):
    n_chars: Counter[str] = Counter()
    for document in corpus:
        n_chars[document.domain] += len(document.text)
    assert sorted(n_chars) == sorted(embedded.EMBEDDED_DOMAINS)
    assert min(n_chars.values()) > 150_000
    assert n_chars.total() > 5_500_000
    assert max(n_chars.values()) < 0.3 * n_chars.total()


def test_documents_are_of_readable_length_and_have_their_own_names(corpus):
    assert max(len(document.text) for document in corpus) <= 2400
    assert len({document.name for document in corpus}) == len(corpus)
    assert all(document.text.strip() and not document.problem for document in corpus)


def test_domains_are_mixed_evenly(corpus):
    whole = Counter(document.domain for document in corpus)
    half = Counter(document.domain for document in corpus[: len(corpus) // 2])
    assert all(abs(half[name] - whole[name] / 2) <= 2 for name in whole)


def test_no_path_of_the_installation_is_in_it(corpus):
    prefix = sysconfig.get_path("stdlib")
    assert not any(prefix in document.text or prefix in document.file for document in corpus)


def test_two_runs_give_the_same(few_modules):
    assert list(embedded.documents()) == list(embedded.documents())


def test_it_does_not_depend_on_where_python_is_installed(few_modules, monkeypatch, tmp_path):
    here = list(embedded.documents())
    library = stdlib_text.library_folder()
    for name in FEW:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(library / name, tmp_path / name)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert list(embedded.documents()) == here


def test_a_python_without_its_library_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(ValueError, match="holds no source of the standard library; install"):
        stdlib_text.library_folder()


def test_tests_and_modules_packaged_apart_are_not_read():
    folder = stdlib_text.library_folder()
    names = {p.relative_to(folder).as_posix() for p in stdlib_text.module_files(folder)}
    assert "argparse.py" in names
    assert "json/decoder.py" in names
    unwanted = ("site-packages", "test", "idlelib", "turtledemo", "lib2to3", "tkinter", "encodings")
    assert not [name for name in names if name.split("/")[0] in unwanted or "/test/" in name]
    assert not [name for name in names if name.startswith("_sysconfigdata")]


@pytest.fixture
def module(tmp_path):
    (tmp_path / "m.py").write_text(
        '"""About m."""\n'
        "# A comment block that is long enough\n"
        "# to be kept in two lines.\n"
        "# short\n\n"
        "X = 1  # trailing\n"
        "def f(a):\n"
        '    """About f."""\n'
        "    # inner words of a comment, forty chars long\n"
        '    raise ValueError("a message of several words, %s" % a)\n'
        "class C:\n"
        '    """About C."""\n'
    )
    return stdlib_text.read_module(tmp_path / "m.py", tmp_path)


def test_a_module_is_cut_into_its_kinds_of_text(module):
    assert stdlib_text.docstrings(module) == ["About m.", "About f.", "About C."]
    assert stdlib_text.comments(module) == [
        "A comment block that is long enough\nto be kept in two lines.\nshort",
        "inner words of a comment, forty chars long",
    ]
    assert stdlib_text.messages(module) == ["a message of several words, %s"]
    assert stdlib_text.code(module) == [
        "def f(a):\n    raise ValueError('a message of several words, %s' % a)",
        "class C:\n    pass",
    ]


def test_joined_entries_lose_nothing_and_stay_short():
    entries = [f"entry {number}" * (number % 9 + 1) for number in range(500)]
    joined = list(embedded.join(entries, "\n"))
    assert "\n".join(joined).split("\n") == entries
    assert all(len(text) < 1400 for text in joined)


def test_thinning_keeps_evenly_spaced_pieces():
    pieces = [(str(number), "x" * 10) for number in range(100)]
    assert embedded.thin(pieces, 5000) == pieces
    assert [int(name) for name, _ in embedded.thin(pieces, 250)] == list(range(3, 100, 4))

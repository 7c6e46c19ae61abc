"""No mail address or URL leaves in whatever way a tokenizer or the edge of a context cuts it."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseemoe.labels.asking.redact import redact

ZEROS = [0.0] * 14
BOTH = ("urls", "mail")
NAME = st.builds("a{}".format, st.text("bcxyz019", min_size=2, max_size=7))
HOST = st.builds("{}.{}".format, NAME, st.sampled_from(["com", "org", "net", "edu", "co.uk"]))
MAIL = st.builds("{}{}{}@{}".format, NAME, st.sampled_from([".", "_", "+", "-", ""]), NAME, HOST)
PATH = st.lists(NAME, max_size=3).map(lambda parts: "".join(f"/{part}" for part in parts))
URL = st.one_of(
    st.builds("{}://{}{}{}".format, st.sampled_from(["http", "https", "ftp", "HTTPS"]), HOST, PATH,
              st.sampled_from(["", "?q=1&key=abc", "#top", ":8080/x", "/a_b-c.html"])),
    st.builds("www.{}{}".format, HOST, PATH),
    st.builds("{}/{}".format, HOST, NAME),
)  # fmt: skip
PLAIN = st.sampled_from([" the", " cat", ", and", "\n", " (see", ") of", " x = f(y)", " «ok»", '"'])
PIECES = st.lists(st.one_of(PLAIN, MAIL.map(" {}".format), URL.map(" {}".format)), max_size=8)


@st.composite
def tokens_of(draw, text):
    """Cut a text anywhere."""
    cuts = draw(st.lists(st.integers(0, len(text)), max_size=12))
    ends = [0, *sorted(cuts), len(text)]
    return [text[a:b] for a, b in zip(ends, ends[1:], strict=False)]


def survives(text):
    """Return what still looks like an address."""
    return re.findall(r"\w@\w|@\w+\.\w|://\w|www\.\w|\w\.(?:com|org|net|edu|co\.uk)\b", text)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_no_address_survives_whatever_the_tokens(data):
    text = "".join(data.draw(PIECES))
    tokens = data.draw(tokens_of(text))
    values = [float(n % 7) for n in range(len(tokens))]
    said, worth = redact(tokens, values, BOTH)
    assert not survives("".join(said))
    assert len(said) == len(worth) <= len(tokens)
    assert max(worth, default=0) == max(values, default=0)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_no_address_survives_at_the_edges_of_a_context(data):
    text = data.draw(st.one_of(MAIL, URL)) + " and " + data.draw(st.one_of(MAIL, URL))
    first = data.draw(st.integers(0, text.index(" ")))
    last = data.draw(st.integers(text.rindex(" "), len(text)))
    said, _ = redact(data.draw(tokens_of(text[first:last])), ZEROS, BOTH)
    assert not survives("".join(said))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_what_stands_around_addresses_stays(data):
    address, mark = data.draw(
        st.one_of(st.tuples(MAIL, st.just("⟨mail⟩")), st.tuples(URL, st.just("⟨url⟩")))
    )
    text = f" the cat, ({address}) sat; on x"
    said, _ = redact(data.draw(tokens_of(text)), ZEROS, BOTH)
    assert re.fullmatch(rf" the cat, \({mark}\)? sat; on x", "".join(said))


@pytest.mark.parametrize(
    "text",
    [
        " import java.net.URL as os.path",
        " np.array(x)/2 and/or self.x",
        "@property def f(x: int = 1):",
        " A@B for matrices, @someone said",
        " e.g. 3.14, 10:30, a:b, C:\\dir",
        " version 1.2.3 of foo.py",
        "the first word",
        "std::vector<int> x",
        "don't",
    ],
)
def test_texts_without_addresses_are_left_as_they_are(text):
    tokens = [text[n : n + 3] for n in range(0, len(text), 3)]
    values = [float(n) for n in range(len(tokens))]
    assert redact(tokens, values, BOTH) == (tokens, values)


def test_an_address_becomes_one_token_with_its_highest_value():
    tokens = [" see", " https", "://", "ex", ".com", "/a", ".", " or", " jo", "@", "ex.org", " ok"]
    values = [0.1, 0.2, 3.0, 0.0, 1.0, 0.0, 0.5, 0.3, 0.0, 2.0, 4.0, 0.7]
    said, worth = redact(tokens, values, BOTH)
    assert said == [" see", " ⟨url⟩", " or", " ⟨mail⟩", " ok"]
    assert worth == [0.1, 3.0, 0.3, 4.0, 0.7]


def test_only_what_is_asked_for_is_cut_out():
    tokens, values = [" jo@ex.org", " http://ex.org"], [1.0, 2.0]
    assert redact(tokens, values, ()) == (tokens, values)
    assert redact(tokens, values, ("urls",))[0] == [" jo@ex.org", " ⟨url⟩"]
    assert redact(tokens, values, ("mail",))[0] == [" ⟨mail⟩", " http://ex.org"]


def test_two_addresses_in_one_token_are_both_cut_out():
    assert redact(["a@b.org,c@d.org", " x"], [1.0, 0.0], BOTH)[0][1] == " x"
    said = redact([" (a@b", ".org,c@", "d.org)"], [1.0, 2.0, 0.0], BOTH)
    assert said == ([" (⟨mail⟩,⟨mail⟩)"], [2.0])

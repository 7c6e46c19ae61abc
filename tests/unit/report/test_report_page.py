"""The summary page: true to the tables, inert, whole in one file, the same bytes again."""

import re
import shutil
from html.parser import HTMLParser

import pytest
from fake_maps import no_pairs
from fake_run import save, small_config, write_run

from deepseemoe.report.content import gather
from deepseemoe.report.page import write_summary
from deepseemoe.report.tables import RunTables, count_rows, read_kept

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=alert(1)>\u202e\"'&</style>"
EMPTY_TAGS = {"meta", "img", "br", "hr", "link"}


class Page(HTMLParser):
    """Tags with their attributes, visible text, and whether every tag is closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in EMPTY_TAGS:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def page(run, tables, figures):
    path = tables.root / "report/summary.html"
    write_summary(run.report, run=run, tables=tables, figures=figures, summary=path)
    return path


@pytest.fixture(scope="module")
def parsed(page):
    return Page(page.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def hostile(run, figures, tmp_path_factory):
    """The page of a run in which every text from the web attacks it."""
    root = write_run(tmp_path_factory.mktemp("hostile"), run, text=HOSTILE)
    path = root / "summary.html"
    tables = RunTables.of(root, run)
    write_summary(run.report, run=run, tables=tables, figures=figures, summary=path)
    return Page(path.read_text(encoding="utf-8"))


def test_every_tag_is_closed(parsed):
    assert parsed.open == []


def test_the_page_is_the_same_bytes_again(run, tables, figures, page, tmp_path):
    again = tmp_path / "again.html"
    write_summary(run.report, run=run, tables=tables, figures=figures, summary=again)
    assert again.read_bytes() == page.read_bytes()


def test_the_page_asks_for_nothing_from_anywhere(parsed):
    addresses = [a[key] for _, a in parsed.tags for key in ("src", "href") if key in a]
    assert addresses
    assert all(address.startswith(("data:image/svg+xml;base64,", "#")) for address in addresses)
    style = "".join(parsed.text)
    assert not re.search(r"url\(|@import|https?://", style)


def test_every_link_in_the_page_has_a_target(parsed):
    ids = {a["id"] for _, a in parsed.tags if "id" in a}
    assert {a["href"][1:] for tag, a in parsed.tags if tag == "a"} <= ids


def test_web_text_is_never_markup(hostile, parsed):
    assert {tag for tag, _ in hostile.tags} == {tag for tag, _ in parsed.tags}
    assert not any(key.startswith("on") for _, a in hostile.tags for key in a)
    assert hostile.open == []


def test_web_text_is_shown_as_it_is(hostile):
    shown = "".join(hostile.text)
    assert "<script>document.title='owned'</script>" in shown
    assert "\u202e" not in shown
    assert "\\u202e" in shown


def test_counts_agree_with_the_tables(tables, parsed):
    paths = [tables.at("experts", one, "reads.parquet") for one in tables.trained]
    n_kept = sum(len(read_kept(path, "q")["q"]) for path in paths)
    n_tested = sum(map(count_rows, paths))
    shown = " ".join("".join(parsed.text).split())
    assert f"{n_kept:,} of {n_tested:,} tested pairs" in shown


def test_every_shown_expert_has_its_features_with_contexts(run, tables, parsed):
    content = gather(run.report, run=run, tables=tables)
    shown = "".join(parsed.text)
    assert len(content.experts) == run.report.n_experts
    for expert in content.experts:
        assert 0 < len(expert.links) <= run.report.features_per_expert
        for link in expert.links:
            assert content.features[link.feature].id in shown
    n_contexts = sum(a.get("class") == "context" for _, a in parsed.tags)
    assert n_contexts > run.report.n_experts
    assert "⏎" in shown


def test_planted_experts_are_found(run, tables):
    """In the fake world a feature calls one expert of each router, at a log odds ratio above 0."""
    content = gather(run.report, run=run, tables=tables)
    for expert in content.experts:
        assert all(link.lor_lo > 0 and link.p_e_given_f > link.p_e for link in expert.links)


def test_experts_say_which_features_they_write(run, tables):
    content = gather(run.report, run=run, tables=tables)
    ids = {written.id for expert in content.experts for written in expert.writes}
    assert all(written.lo > 0 for expert in content.experts for written in expert.writes)
    assert all(re.fullmatch(r"L\d\d-L\d\d\.F\d{5}", name) for name in ids)


def test_a_run_without_any_link_is_told_as_such(run, tables, figures, tmp_path):
    root = tmp_path / "null"
    shutil.copytree(tables.root, root)
    for one in tables.trained:
        save(root / f"experts/{one.dictionary}/{one.window}/reads.parquet", no_pairs())
    path = root / "summary.html"
    null = RunTables.of(root, run)
    write_summary(run.report, run=run, tables=null, figures=figures, summary=path)
    shown = " ".join("".join(Page(path.read_text(encoding="utf-8")).text).split())
    assert "No pair of a feature and an expert was frequent enough to be tested." in shown
    assert "No expert is called by any feature in this run." in shown


def test_a_run_on_a_hub_model_needs_no_training_of_the_model(figures, tmp_path):
    run = small_config(
        windows=["L00-L01"],
        model={"source": "hub", "name": "a/model"},
        dictionaries={"crosscoder": {"d_dict": 64, "k": 4}},
    )
    path = tmp_path / "summary.html"
    tables = RunTables.of(write_run(tmp_path, run), run)
    write_summary(run.report, run=run, tables=tables, figures=figures, summary=path)
    shown = " ".join("".join(Page(path.read_text(encoding="utf-8")).text).split())
    assert "a/model, 4 MoE layers of 8 experts" in shown
    assert "1 dictionary on 1 window of layers" in shown

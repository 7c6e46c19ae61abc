"""Which files are read."""

import fsspec
import pytest

from deepseemoe.config.corpus import CorpusConfig
from deepseemoe.corpus.listing import SourceFile, list_files, take_fraction
from deepseemoe.corpus.readers import Keys, read_documents

SHARD = "global-shard_{:02d}_of_10/local-shard_{}_of_10/shard_0000000{}_processed.jsonl.zst"


def names(*paths, **config) -> list[str]:
    settings = CorpusConfig(source="files", paths=[str(path) for path in paths], **config)
    return [file.name for file in list_files(settings)]


@pytest.fixture
def dclm(source):
    """A folder of 2 x 3 DCLM shards, with what lies around in such folders."""
    for global_shard in (1, 10):
        for local_shard in (0, 1, 2):
            path = source(SHARD.format(global_shard, local_shard, 0), b"x")
    source(SHARD.format(1, 0, 0).replace("processed", "processed_old"), b"x")
    source("README.txt", b"about")
    source("dataset_info.json", b"{}")
    return path.parents[2]


def test_a_folder_gives_its_data_files_and_never_old_ones(dclm):
    assert names(dclm) == [SHARD.format(g, n, 0) for g in (1, 10) for n in (0, 1, 2)]


def test_old_files_are_not_read_even_where_named(dclm):
    old = next(dclm.rglob("*_old*"))
    with pytest.raises(ValueError, match="or its name ends _old"):
        names(old)
    with pytest.raises(ValueError, match="matches no file to read"):
        names(f"{old.parent}/*_old.jsonl.zst")


def test_shards_are_chosen_by_number(dclm):
    assert names(dclm, global_shards=[10], local_shards=[0, 2]) == [
        SHARD.format(10, 0, 0),
        SHARD.format(10, 2, 0),
    ]
    assert len(names(dclm, local_shards=[1])) == 2


def test_shards_that_are_not_there_are_an_error_that_names_those_that_are(dclm):
    line = (
        r"global_shards \[3\] and local_shards \[\] leave none of 6 files; "
        r"found .*global-shard_01_of_10/local-shard_0_of_10, .* …"
    )
    with pytest.raises(ValueError, match=line):
        names(dclm, global_shards=[3])


@pytest.mark.parametrize(
    ("fraction", "kept"),
    [(1.0, [*range(10)]), (0.3, [0, 3, 6]), (0.01, [0]), (0.5, [0, 2, 4, 6, 8])],
)
def test_a_fraction_is_evenly_spaced_and_at_least_one_file(fraction, kept):
    files = [SourceFile(f"file:///{n}.txt", f"{n}.txt", "text", "") for n in range(10)]
    assert take_fraction(files, fraction) == [files[n] for n in kept]


def test_globs_variables_and_doubles(source, monkeypatch):
    folder = source("a.jsonl", b"x").parent
    source("deep/b.json.gz", b"x")
    source("c.csv", b"x")
    monkeypatch.setenv("MY_TEXT", str(folder))
    monkeypatch.setenv("HOME", str(folder))
    assert names("$MY_TEXT/*") == ["a.jsonl"]
    assert names("~/**/*.gz", "~/a.jsonl", "$MY_TEXT/a.jsonl") == ["a.jsonl", "deep/b.json.gz"]


@pytest.mark.parametrize(
    ("name", "kind", "compression"),
    [
        ("shard_00000000_processed.jsonl.zst", "json", "zst"),
        ("shard_00000000_processed.jsonl.zstd", "json", "zst"),
        ("cc_en_head-0000.json.gz", "json", "gz"),
        ("c4-train.00000-of-01024.jsonl.gz", "json", "gz"),
        ("part.zst", "json", "zst"),
        ("part.jsonl", "json", ""),
        ("named.json", "json", ""),
        ("train-00000.parquet", "parquet", ""),
        ("book.txt", "text", ""),
        ("book.txt.gz", "text", "gz"),
    ],
)
def test_the_format_follows_from_the_name(source, name, kind, compression):
    path = source(name, b"x")
    (file,) = list_files(CorpusConfig(source="files", paths=[str(path)]))
    assert file == SourceFile(f"file://{path}", name, kind, compression)


def test_files_are_named_below_their_common_folder_wherever_it_is(source):
    source("x/1.txt", b"x")
    source("xy/2.txt", b"x")
    assert names(source("xy/3.txt", b"x").parents[1]) == ["x/1.txt", "xy/2.txt", "xy/3.txt"]


def test_paths_that_match_nothing_say_what_can_be_read(source):
    folder = source("table.csv", b"x").parent
    with pytest.raises(ValueError, match=r"table\.csv cannot be read: it is not \.jsonl, "):
        names(folder / "table.csv")
    with pytest.raises(ValueError, match=r"\*\.jsonl matches no file to read \(looked at /"):
        names(folder / "*.jsonl")
    with pytest.raises(ValueError, match="nowhere matches no file to read"):
        names(folder / "nowhere")
    with pytest.raises(ValueError, match=r"source holds no \.jsonl, .* file; found table\.csv"):
        names(folder)


@pytest.fixture
def hub():
    """A data set in fsspec's memory, in place of the Hub."""
    memory = fsspec.filesystem("memory")
    for local_shard in (0, 1):
        line = b'{"text": "shard %d", "url": "u"}\n' % local_shard
        path = f"/org/set/{SHARD.format(1, local_shard, 0).removesuffix('.zst')}"
        memory.pipe(path, line)
    yield "memory://"
    memory.rm("/org", recursive=True)


def test_the_hub_is_listed_and_read_through_fsspec(hub):
    config = CorpusConfig(source="hub", dataset="org/set", local_shards=[1])
    (file,) = list_files(config, hub=hub)
    assert file.name == "local-shard_1_of_10/shard_00000000_processed.jsonl"
    assert [one.text for one in read_documents(file, Keys("text"))] == ["shard 1"]


def test_a_data_set_that_is_not_there_is_an_error(hub):
    with pytest.raises(ValueError, match="memory://org/none matches no file"):
        list_files(CorpusConfig(source="hub", dataset="org/none"), hub=hub)


def test_a_hub_out_of_reach_says_what_to_do(monkeypatch):
    class NoNetwork(Exception):
        """Stands for the HTTP library's own errors."""

    def fail(url):
        raise NoNetwork("Name or service not known")

    monkeypatch.setattr(fsspec, "url_to_fs", fail)
    with pytest.raises(
        ValueError, match=r"hf://datasets/org/set cannot be listed \(Name or service"
    ):
        list_files(CorpusConfig(source="hub", dataset="org/set"))

"""Names read back as what they were written from."""

import pytest

from deepseemoe.names import ExpertId, FeatureId, Site, Window, shard_name


@pytest.mark.parametrize(
    "name",
    [
        Window(8, 10),
        Window(0, 0),
        Window(99, 101),
        ExpertId(8, 17),
        ExpertId(0, 3, is_shared=True),
        FeatureId(Window(8, 10), 1234),
        FeatureId(Window(0, 0), 131071),
        Site("resid_post", 8),
    ],
    ids=str,
)
def test_a_name_reads_back_as_itself(name):
    assert type(name).parse(str(name)) == name


def test_names_look_as_documented():
    assert str(Window(8, 10)) == "L08-L10"
    assert str(ExpertId(8, 17)) == "L08.E17"
    assert str(ExpertId(8, 0, is_shared=True)) == "L08.S0"
    assert str(FeatureId(Window(8, 10), 1234)) == "L08-L10.F01234"
    assert shard_name(3) == "00003"


@pytest.mark.parametrize("kind", [Window, ExpertId, FeatureId, Site])
def test_what_is_no_name_is_refused_with_an_example(kind):
    with pytest.raises(ValueError, match="is written"):
        kind.parse("layer 8")

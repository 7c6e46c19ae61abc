"""Contexts as they are shown: only we mark tokens."""

from deepseemoe.labels.contexts import Context


def test_text_with_marks_of_its_own_marks_nothing():
    context = Context("top", 0, ["«", " Ruhe", "» ", "bitte"], [0.0, 0.0, 0.0, 3.0])
    assert context.marked() == "‹ Ruhe› «bitte»"

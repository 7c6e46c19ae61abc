"""Text from the web is shown whole, in order, and as text."""

import pytest

from deepseemoe.report.contexts import N_LEVELS, spans, visible
from deepseemoe.report.style import short


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb", "a⏎b"),
        ("\tx", "⇥x"),
        ("\u202etxt.exe", "\\u202etxt.exe"),
        ("\x00\x1b[31m", "\\u0000\\u001b[31m"),
        ("\u200bzero", "\\u200bzero"),
        (" naïve 中文 <b>", " naïve 中文 <b>"),
    ],
)
def test_every_character_shows(text, shown):
    assert visible(text) == shown


def test_shades_follow_activation():
    shown = spans(["a", "b", "c", "d"], [0.0, 0.01, 5.0, 10.0], 3, 10.0)
    assert [span.level for span in shown] == [0, 1, round(N_LEVELS / 2), N_LEVELS]
    assert [span.is_peak for span in shown] == [False, False, False, True]


def test_a_silent_context_has_no_shades():
    assert {span.level for span in spans(["a", "b"], [0.0, 0.0], 0, 0.0)} == {0}


def test_figures_show_boxes_for_what_their_font_lacks():
    assert short("中文 ok", 20) == "□□ ok"
    assert short("x" * 50, 10) == "x" * 9 + "…"
    assert short("a\nb\u202e", 10) == "a⏎b·"

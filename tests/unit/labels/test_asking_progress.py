"""Progress says what has been spent; a terminal gets a bar, a log does not."""

import io
import logging

from deepseemoe.labels.asking.bill import Bill, Prices
from deepseemoe.labels.asking.progress import CostProgress
from deepseemoe.labels.asking.question import Usage


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run(terminal):
    bill = Bill(Prices(1.0, 1.0))
    progress = CostProgress("label_features", 3, bill=bill, terminal=terminal)
    for key in ("a", "b", "c"):
        bill.answered(key, "explain", Usage(400, 100, 1), cached=False)
        progress.advance()
    return terminal.getvalue()


def test_the_log_has_a_line_with_cost_at_the_end_and_no_bar(caplog):
    with caplog.at_level(logging.INFO):
        assert run(io.StringIO()) == ""
    (line,) = caplog.messages
    assert "3 of 3 features" in line
    assert "calls 3, tokens 1500, USD 0.0015, failures 0" in line


def test_a_terminal_has_a_bar_with_cost():
    shown = run(Terminal())
    assert shown.endswith("\x1b[K\n")
    assert "3/3 features, 0 s left, 3 calls, 1500 tokens, 0.0015 USD, 0 failures" in shown

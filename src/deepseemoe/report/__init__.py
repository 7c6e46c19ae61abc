"""Figures and the summary page: what a researcher opens first.

`names` says which figures a run has (standard library only, for the Snakefile), `figures` draws
them, `page` writes the summary, `tables` knows where a run's tables stand, and `look` answers
questions in a terminal.
"""

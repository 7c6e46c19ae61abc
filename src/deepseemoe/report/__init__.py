"""Figures and the summary page: what a researcher opens first.

`names` says which figures a run has (standard library only, for the Snakefile), `figures.draw_figures`
draws them, `page.write_summary` writes the page, `tables.RunTables` knows where a run's tables stand.
"""

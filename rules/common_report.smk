"""The figures of the report, in their categories."""


def figure(stem, group, category):
    """Return one figure of the report, in its category and with its caption."""
    caption = f"../workflow/report/{group}.rst"
    return report(
        f"<results>/{{run}}/report/figures/{stem}.svg",
        caption=caption,
        category=category,
    )


def copies_of_figures():
    """Return the figures in the other formats that the configuration asks for."""
    return [
        f"<results>/{{run}}/report/figures/{stem}.{kind}"
        for kind in RUN.report.formats
        if kind != "svg"
        for stem in figure_names(RUN)
    ]


def figures():
    """Return the report's figures."""
    return [
        figure(stem, name, category)
        for name, category, stems in figure_groups(RUN)
        for stem in stems
    ]

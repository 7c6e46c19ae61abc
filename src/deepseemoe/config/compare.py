"""The target `compare`: finished runs side by side."""

from typing import Literal

from pydantic import Field, model_validator

from deepseemoe.config.base import Section


class ComparedRun(Section):
    """One run of a comparison."""

    run: str = Field(
        min_length=1, description="Name of a run in results/, or the folder of its results."
    )
    label: str | None = Field(None, description="What it is called; empty: the folder's name.")
    experts: Literal["separate", "joint"] | None = Field(
        None,
        description="How its experts were trained: each apart for a domain (FlexOlmo) or all "
        "jointly; runs of both kinds are contrasted.",
    )
    expert_domains: tuple[str, ...] = Field(
        (),
        description="What each expert was made for; empty: as the run's own model.expert_domains.",
    )


class CompareConfig(Section):
    """The target `compare`: the same tables of several finished runs, and measures that compare.

    It only reads; runs that are named here are not made.
    """

    runs: tuple[str | ComparedRun, ...] = Field(
        (),
        description="Runs to compare: names, folders, or entries with the keys run, label, experts "
        "(`separate` or `joint`) and expert_domains.",
    )
    n_draws: int = Field(200, ge=20, description="Draws behind the intervals.")
    n_permutations: int = Field(
        10_000,
        ge=100,
        description="Permutations of what experts were made for; up to 8 experts: all of them.",
    )
    format: Literal[1] = Field(1, description="A higher one reruns the stage.")

    @property
    def entries(self) -> tuple[ComparedRun, ...]:
        """The runs as entries, each with a label."""
        entries = [ComparedRun(run=run) if isinstance(run, str) else run for run in self.runs]
        return tuple(
            entry.model_copy(update={"label": entry.label or entry.run.rstrip("/").split("/")[-1]})
            for entry in entries
        )

    @model_validator(mode="after")
    def _labels_differ(self) -> "CompareConfig":
        labels = [entry.label for entry in self.entries]
        twice = sorted({str(label) for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"runs: {', '.join(twice)} stands twice; give each a label of its own")
        return self

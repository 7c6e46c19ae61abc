"""Looking up one expert, one feature or one word in the maps of a finished run, as plain text."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from deepseemoe.names import ExpertId, FeatureId, Window
from deepseemoe.report.contexts import visible
from deepseemoe.runtime.tables import read_table


def look(results: Path, what: str, *, dictionary: str | None = None, n_rows: int = 10) -> str:
    """Return lines about `what`: an expert (L01.E3), feature (L00-L01.F00012) or word of labels.

    Raises ValueError where `results` is no finished run or holds no such thing.
    """
    windows = _windows(results, dictionary)
    if _is(ExpertId, what):
        return _expert(windows, ExpertId.parse(what), n_rows)
    if _is(FeatureId, what):
        return _feature(windows, FeatureId.parse(what), n_rows)
    return _word(windows, what, n_rows)


def _is(kind: type[ExpertId] | type[FeatureId], what: str) -> bool:
    try:
        kind.parse(what)
    except ValueError:
        return False
    return True


def _windows(results: Path, dictionary: str | None) -> dict[Window, Path]:
    """Return the map folder of each window of a dictionary, the first of the run by default."""
    names = sorted(path.name for path in results.glob("experts/*") if path.is_dir())
    if not names:
        raise ValueError(
            f"{results} holds no maps; name the folder of a finished run, as results/tiny"
        )
    if dictionary not in (None, *names):
        raise ValueError(f"{results} has no dictionary {dictionary!r}; it has {', '.join(names)}")
    folder = results / "experts" / (dictionary or names[0])
    return {Window.parse(path.name): path for path in sorted(folder.iterdir()) if path.is_dir()}


def _labels(maps: Path) -> dict[int, str]:
    """Return the label of each feature of the map in `maps`, safe to print: text of the web."""
    results, dictionary, window = maps.parents[2], maps.parent.name, maps.name
    table = read_table(results / "labels" / dictionary / window / "features.parquet")
    labels = map(visible, table["label"].to_pylist())
    return dict(zip(table["feature"].to_pylist(), labels, strict=True))


def _expert(windows: dict[Window, Path], expert: ExpertId, n_rows: int) -> str:
    lines = []
    for window, maps in windows.items():
        reads = read_table(maps / "reads.parquet")
        wanted = pc.and_(
            pc.equal(reads["layer"], expert.layer), pc.equal(reads["expert"], expert.expert)
        )
        rows = reads.filter(wanted).sort_by("rank").slice(0, n_rows)
        if len(rows):
            lines += [f"{expert} is called by features of {maps.parent.name} {window}", _header()]
            lines += _rows(
                rows, [str(FeatureId(window, f)) for f in _column(rows, "feature")], maps
            )
    return _told(lines, f"expert {expert} in no map of this dictionary")


def _feature(windows: dict[Window, Path], feature: FeatureId, n_rows: int) -> str:
    if feature.window not in windows:
        known = ", ".join(map(str, windows))
        raise ValueError(f"{feature.window} is no window of this dictionary; it has {known}")
    maps = windows[feature.window]
    label = _labels(maps).get(feature.feature, "not labelled: it fires too rarely")
    reads = read_table(maps / "reads.parquet")
    rows = reads.filter(pc.equal(reads["feature"], feature.feature))
    rows = rows.sort_by([("lor", "descending")]).slice(0, n_rows)
    experts = zip(_column(rows, "layer"), _column(rows, "expert"), strict=True)
    lines = [f"{feature}  {label}", _header("expert")]
    lines += _rows(rows, [str(ExpertId(*pair)) for pair in experts], None)
    return _told(lines if len(rows) else lines[:1], "")


def _word(windows: dict[Window, Path], word: str, n_rows: int) -> str:
    lines = []
    for window, maps in windows.items():
        found = [(f, label) for f, label in _labels(maps).items() if word.lower() in label.lower()]
        lines += [f"{FeatureId(window, f)}  {label}" for f, label in found[:n_rows]]
    return _told(lines, f"no label holds {word!r}")


def _told(lines: list[str], nothing: str) -> str:
    if not lines:
        raise ValueError(nothing)
    return "\n".join(lines)


def _column(rows: pa.Table, name: str) -> list:
    return rows[name].to_pylist()


def _header(first: str = "feature") -> str:
    return f"  {first:<16}{'log odds (95 %)':<26}{'lift':>6}{'tokens':>8}{'q':>9}  label"


def _rows(rows: pa.Table, names: list[str], maps: Path | None) -> list[str]:
    labels = _labels(maps) if maps else {}
    lines = []
    for name, row in zip(names, rows.to_pylist(), strict=True):
        odds = f"{row['lor']:+.2f} ({row['lor_lo']:+.2f} … {row['lor_hi']:+.2f})"
        label = labels.get(row["feature"], "") if maps else ""
        lines.append(
            f"  {name:<16}{odds:<26}{row['lift']:>6.2f}{row['n_both']:>8}{row['q']:>9.2g}  {label}"
        )
    return lines

"""A report on one or several runs: charts and a comparison, as a picture and as a page."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from html import escape
from pathlib import Path

from tfllm.charts.run_charts import (
    LOSS,
    PANELS,
    Panel,
    panel_svg,
    panels_of,
    picture,
    require_matplotlib,
    style_of,
)
from tfllm.charts.run_logs import RunLog, XAxis, read_runs
from tfllm.training.reports.run_comparison import Table, comparison, differences
from tfllm.version import __version__


def report(
    runs: str | Path | Sequence[str | Path],
    out: str | Path = "report",
    *,
    x: XAxis = "tokens",
) -> Path:
    """Plot loss, learning rate, throughput and more of training runs, and compare the runs.

    The runs may be running, interrupted, resumed or finished; values that their logs do not contain
    are left out. TensorFlow is not imported.

    Args:
        runs: folders of one or several runs.
        out: a folder, or a file that ends with .html or .png. The page and the picture are written
            next to each other, with the same name and these endings. Existing files are replaced.
        x: horizontal axis of the charts: "tokens", "step" or "seconds".

    Returns:
        Path of the page, a single self-contained HTML file; that of the picture is
        `.with_suffix(".png")`.

    Raises:
        FileNotFoundError: a folder does not contain a run.
        ValueError: no run has logged a step, no log contains `x`, or `out` has another ending.
        ImportError: matplotlib is not installed (the extra `plot`).
    """
    if x not in ("tokens", "step", "seconds"):
        raise ValueError(f"x must be tokens, step or seconds; received {x!r}")
    page = _page_path(Path(out))
    found = read_runs([runs] if isinstance(runs, str | Path) else runs)
    require_matplotlib()
    panels = panels_of(found, x)
    if all(panel.key == "time_shares" for panel in panels):
        raise ValueError(f"none of the logs contains {x}, the horizontal axis; choose another x")
    html = _html(found, x)
    page.parent.mkdir(parents=True, exist_ok=True)
    picture(panels, found, x, page.with_suffix(".png"))
    page.write_text(html, encoding="utf-8")
    return page


def _page_path(out: Path) -> Path:
    if out.is_dir() or not out.suffix:
        return out / "report.html"
    if out.suffix not in (".html", ".png"):
        raise ValueError(f"out must be a folder or end with .html or .png; received {out}")
    return out.with_suffix(".html")


# ------------------------------------------------------------------ the page


def _html(runs: Sequence[RunLog], x: XAxis) -> str:
    panels = panels_of(runs, x)
    columns = [f"{_swatch(number)}{escape(run.name)}" for number, run in enumerate(runs)]
    settings = ""
    if len(runs) > 1:
        differing = differences(runs)
        text = _table(columns, differing) if differing else "<p>None: all are the same.</p>"
        settings = f"<h2>Settings that differ</h2>\n{text}"
    written = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    return _PAGE.format(
        title=escape("Training report: " + ", ".join(run.name for run in runs)),
        style=_STYLE,
        names="".join(f"<li>{name}</li>" for name in columns),
        charts="\n".join(_figure(panel, runs, x) for panel in panels),
        comparison=_table(columns, comparison(runs)),
        settings=settings,
        notes="".join(f"<li>{escape(note)}</li>" for note in _notes(runs, panels, x)),
        foot=escape(f"tfllm {__version__}, {written}"),
    )


def _figure(panel: Panel, runs: Sequence[RunLog], x: XAxis) -> str:
    kind, size, caption = "", (5.1, 2.9), ""
    if panel is LOSS:
        kind, size = "wide", (10.4, 4.0)
        text = "Training loss, smoothed; the faint line is the logged loss, dots are validations."
        caption = f"<figcaption>{text}</figcaption>"
    return (
        f'<figure class="{kind}" role="img" aria-label="{escape(panel.title)}">'
        f"{panel_svg(panel, runs, x, size)}{caption}</figure>"
    )


def _notes(runs: Sequence[RunLog], panels: Sequence[Panel], x: XAxis) -> list[str]:
    """Notes on what the report does not show, and why."""
    notes = [f"{run.name}: {note}" for run in runs for note in run.notes]
    for run in runs:
        if (run.steps or run.validations) and not run.series("loss", x)[0]:
            notes.append(f"{run.name}: its log has no {x}, so its curves are not drawn")
    missing = [panel.title for panel in PANELS if panel not in panels]
    return [*notes, f"Not in these logs: {'; '.join(missing)}"] if missing else notes


def _swatch(number: int) -> str:
    colour, dashes = style_of(number)
    pattern = {"-": "", "--": "7 3", ":": "2 3", "-.": "7 3 2 3"}[dashes]
    return (
        '<svg class="swatch" viewBox="0 0 26 8" aria-hidden="true"><line x1="1" y1="4" x2="25" '
        f'y2="4" stroke="{colour}" stroke-width="4" stroke-dasharray="{pattern}"/></svg>'
    )


def _table(columns: Sequence[str], rows: Table) -> str:
    """A table as HTML; the column headers are HTML already."""
    head = "".join(f'<th scope="col">{column}</th>' for column in columns)
    body = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for name, cells in rows.items()
    )
    return (
        f'<div class="scroll"><table><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


_STYLE = """
:root { color-scheme: light dark;
  --ink: #1c1f24; --paper: #ffffff; --line: #d8dbe0; --soft: #5d6570 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e6ea; --paper: #14161a; --line: #353a42; --soft: #9aa2ad }
}
body { margin: 0 auto; max-width: 72rem; padding: 1.5rem 1.25rem 3rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
h1 { font-size: 1.5rem; margin: 0 0 .5rem } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem }
.runs { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; margin: 0 0 1rem;
  padding: 0 } .runs li { overflow-wrap: anywhere }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr));
  gap: 1.25rem } figure { margin: 0 } figure svg { width: 100%; height: auto; display: block }
.wide { grid-column: 1 / -1; overflow-x: auto } .wide svg { min-width: 38rem }
figcaption, footer, .notes { color: var(--soft); font-size: .875rem }
.swatch { width: 1.6rem; height: .5rem; margin-right: .45rem; vertical-align: middle }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem 1.1rem .3rem 0; text-align: right; border-bottom: 1px solid var(--line) }
thead th { vertical-align: bottom; max-width: 16rem; overflow-wrap: anywhere }
tbody th { text-align: left; font-weight: normal; color: var(--soft); white-space: nowrap }
tbody td { white-space: nowrap }
footer { margin-top: 2rem }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>Training report</h1>
<ul class="runs">{names}</ul>
<div class="charts">
{charts}
</div>
<h2>Comparison</h2>
{comparison}
{settings}
<ul class="notes">{notes}</ul>
<footer>{foot}</footer>
</body>
</html>
"""

"""The command `report`."""

from __future__ import annotations

import argparse
import os
import sys

from tfllm.cli.arguments import AddCommand


def add_commands(add: AddCommand) -> None:
    """Add the commands of this module."""
    report = add("report", "Draw and compare runs, running or finished", _report)
    report.add_argument("runs", metavar="RUN", nargs="+", help="what `tfllm train` writes to")
    report.add_argument(
        "--out", default="report", help="a folder, or a file that ends with .html or .png"
    )
    report.add_argument(
        "--x", choices=["tokens", "step", "seconds"], default="tokens", help="the horizontal axis"
    )
    report.add_argument(
        "--open-nothing",
        action="store_true",
        help="do not show the page in a browser; a terminal without a desktop never does",
    )


def _report(options: argparse.Namespace) -> None:
    from tfllm.training import report

    page = report(options.runs, options.out, x=options.x)
    print(f"wrote {page} and {page.with_suffix('.png')}")
    desktop = sys.platform in ("darwin", "win32") or {"DISPLAY", "WAYLAND_DISPLAY"} & {*os.environ}
    if desktop and sys.stdout.isatty() and not getattr(options, "open_nothing", False):
        import webbrowser

        webbrowser.open(page.resolve().as_uri())

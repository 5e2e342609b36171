"""The command `report`."""

from __future__ import annotations

import argparse
import os
import sys

from tfllm.cli.arguments import AddCommand


def add_commands(add: AddCommand) -> None:
    """Add the commands of this module."""
    report = add(
        "report",
        "Plot and compare training runs, finished or still running",
        _report,
        "tfllm report runs/first runs/second --out report",
    )
    report.add_argument("runs", metavar="RUN", nargs="+", help="folders of `tfllm train --out`")
    report.add_argument(
        "--out",
        metavar="PATH",
        default="report",
        help="folder to write, or a file that ends in .html or .png",
    )
    report.add_argument(
        "--x", choices=["tokens", "step", "seconds"], default="tokens", help="horizontal axis"
    )
    report.add_argument(
        "--no-browser",
        action="store_true",
        help="do not open the page in a browser (it is never opened without a desktop)",
    )
    # Its old name.
    report.add_argument(
        "--open-nothing", action="store_true", dest="no_browser", help=argparse.SUPPRESS
    )


def _report(options: argparse.Namespace) -> None:
    from tfllm.training import report

    page = report(options.runs, options.out, x=options.x)
    print(f"wrote {page} and {page.with_suffix('.png')}")
    desktop = sys.platform in ("darwin", "win32") or {"DISPLAY", "WAYLAND_DISPLAY"} & {*os.environ}
    if desktop and sys.stdout.isatty() and not getattr(options, "no_browser", False):
        import webbrowser

        webbrowser.open(page.resolve().as_uri())

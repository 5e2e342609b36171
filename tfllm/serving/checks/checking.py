"""Would TensorFlow Serving 2.20 serve this SavedModel? `check` says what would fail, and the fix.

The files are read first, for ops that the server lacks, functions that need XLA, growing tables,
weights stored as constants, types that JSON cannot carry and shapes that cannot be batched. Then
the model is loaded in a clean process through TensorFlow's C API with XLA off, as the server does
it, and its warm-up requests and odd texts are run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tfllm.path_kinds import instead_of
from tfllm.serving.checks.deployment import check_deployment
from tfllm.serving.checks.files import check_files, check_versions, is_version_folder
from tfllm.serving.checks.graph import check_graph
from tfllm.serving.checks.ops import check_ops
from tfllm.serving.checks.parts import check_widths
from tfllm.serving.checks.report import CheckReport, Finding, sort_findings
from tfllm.serving.checks.run import CheckedRun, check_run
from tfllm.serving.checks.signatures import check_signatures
from tfllm.serving.saved_model.graph import SavedModelError, SavedModelGraph

TIMEOUT_SECONDS = 600.0


def check(path: str | Path, *, run: bool = True, timeout: float = TIMEOUT_SECONDS) -> CheckReport:
    """Check a SavedModel for TensorFlow Serving 2.20.

    Args:
        path: a version folder (NAME/1), or a model's folder (NAME), of which the newest version
            and the names of all versions are checked.
        run: whether to load the model in a process of its own and run requests; if False, only the
            files are read.
        timeout: time limit of that process, in seconds.

    Returns:
        The report; `report.ok` is False when the model would fail in TensorFlow Serving.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the folder is a run, a model folder or prepared data; or the timeout is not
            positive.
    """
    if timeout <= 0:
        raise ValueError(f"timeout must be positive, in seconds; got {timeout}")
    folder = Path(path)
    if not folder.is_dir():
        what = "it is a file" if folder.exists() else "it does not exist"
        raise FileNotFoundError(
            f"the model to check must be a folder NAME or NAME/VERSION; there is no folder "
            f"{folder}: {what}"
        )
    if message := instead_of(folder, "exported"):
        raise ValueError(message)
    findings: list[Finding] = []
    if not is_version_folder(folder):
        version, findings = check_versions(folder)
        if version is None:
            return CheckReport(folder, sort_findings(findings))
        folder = version
    try:
        graph = SavedModelGraph.read(folder)
    except SavedModelError as error:
        findings.append(Finding("error", error.code, str(error), error.fix))
        return CheckReport(folder, sort_findings(findings))
    findings += check_files(folder, graph)
    findings += check_signatures(graph)
    findings += check_ops(graph)
    findings += check_graph(graph)
    ran = check_run(folder, graph, timeout) if run and graph.signatures else CheckedRun([])
    findings += ran.findings
    findings += check_widths(folder, graph, ran.widths)
    took = ran.footprint
    findings += check_deployment(folder, took)
    return CheckReport(
        folder,
        sort_findings(findings),
        ran.requests,
        ran.load_seconds,
        took.ready_seconds if took else None,
        took.peak_memory_bytes if took else None,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Check models and print reports.

    Args:
        arguments: the command line's; defaults to those of this process.

    Returns:
        0 if all models would be served, 1 if one would fail, 2 if a folder does not exist.
    """
    parser = argparse.ArgumentParser(prog="tfllm check", description=__doc__)
    parser.add_argument("path", type=Path, nargs="+", help="NAME or NAME/VERSION, a folder")
    parser.add_argument("--json", action="store_true", help="print a list of reports as JSON")
    parser.add_argument("--no-run", action="store_true", help="read the files only")
    parser.add_argument(
        "--timeout", type=float, default=TIMEOUT_SECONDS, help="seconds to load and run a model"
    )
    options = parser.parse_args(arguments)
    try:
        reports = [
            check(path, run=not options.no_run, timeout=options.timeout) for path in options.path
        ]
    except (ValueError, OSError) as error:
        print(f"tfllm check: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps([report.to_dict() for report in reports], indent=2))
    else:
        print("\n\n".join(report.format() for report in reports))
    return 0 if all(report.ok for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())

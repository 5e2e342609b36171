"""What a check of a SavedModel found: findings with a severity, a code and a way to fix them."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Severity = Literal["error", "warning", "info"]
_ORDER = {"error": 0, "warning": 1, "info": 2}


@dataclass(frozen=True)
class Finding:
    """A problem of a SavedModel for TensorFlow Serving or for its users."""

    severity: Severity
    """error: would fail in TensorFlow Serving; warning: would work badly; info: good to know"""
    code: str
    """the rule's name, such as `growing_table`"""
    what: str
    """what was found, with names and counts of ops, functions, inputs and outputs"""
    fix: str = ""
    """what to do about it"""


@dataclass(frozen=True)
class CheckReport:
    """The findings about one SavedModel, errors first."""

    path: Path
    """the version folder that was checked; the model folder if it has no version"""
    findings: tuple[Finding, ...]
    """errors first, then warnings, then the rest"""
    requests: int = 0
    """number of requests that were run: warm-up requests and probes"""
    load_seconds: float | None = None
    """time to load the model in the clean process; None if it was not run"""
    ready_seconds: float | None = None
    """time to load the model and run its warm-up requests, after which a server is ready"""
    peak_memory_bytes: int | None = None
    """peak memory of the clean process over all requests"""

    @property
    def ok(self) -> bool:
        """Whether no finding is an error."""
        return not self.of("error")

    def of(self, severity: Severity) -> list[Finding]:
        """The findings of one severity."""
        return [finding for finding in self.findings if finding.severity == severity]

    def format(self, width: int = 100) -> str:
        """The report as text, in lines of at most `width` characters where words allow it."""
        counts = [
            f"{len(found)} {name}{'s' if len(found) != 1 and name != 'info' else ''}"
            for name in _ORDER
            if (found := self.of(name))  # type: ignore[arg-type]
        ]
        verdict = (
            "fit for TensorFlow Serving 2.20" if self.ok else "would fail in TensorFlow Serving"
        )
        lines = [f"{self.path}: {verdict} ({', '.join(counts) or 'nothing found'})"]
        if self.load_seconds is not None:
            lines.append(
                f"loaded in {self.load_seconds:.1f} s, {self.requests} requests run, no XLA"
            )
            if self.ready_seconds is not None and self.peak_memory_bytes is not None:
                lines.append(
                    f"ready after {self.ready_seconds:.1f} s, "
                    f"{self.peak_memory_bytes / 2**30:.2f} GiB of memory at most"
                )
        elif self.requests == 0:
            lines.append("no request was run")
        indent = " " * 10
        for finding in self.findings:
            lines.append(f"\n{finding.severity:<8}  {finding.code}")
            for label, text in (("", finding.what), ("fix: ", finding.fix)):
                if text:
                    lines += textwrap.wrap(
                        label + " ".join(text.split()),
                        width,
                        initial_indent=indent,
                        subsequent_indent=indent + " " * len(label),
                        break_long_words=False,
                        break_on_hyphens=False,
                    )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The report as values that JSON can hold."""
        return {
            "path": str(self.path),
            "ok": self.ok,
            "requests": self.requests,
            "load_seconds": self.load_seconds,
            "ready_seconds": self.ready_seconds,
            "peak_memory_bytes": self.peak_memory_bytes,
            "findings": [
                {"severity": f.severity, "code": f.code, "what": f.what, "fix": f.fix}
                for f in self.findings
            ],
        }


def sort_findings(findings: list[Finding]) -> tuple[Finding, ...]:
    """Sort by severity, errors first; within a severity the order is kept."""
    return tuple(sorted(findings, key=lambda finding: _ORDER[finding.severity]))


def listed(names: Any, limit: int = 4) -> str:
    """Join names by commas, at most `limit` of them: "a, b and 7 more"."""
    names = list(dict.fromkeys(str(name) for name in names))
    if len(names) <= limit:
        return ", ".join(names)
    return f"{', '.join(names[:limit])} and {len(names) - limit} more"

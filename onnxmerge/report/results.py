"""Reports as users get them: the figures, with a method that writes them as a page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnxmerge.report.model import Account, Inspection
from onnxmerge.report.network import write_network
from onnxmerge.report.page import write_report

__all__ = ["InspectionReport", "Report"]


@dataclass(frozen=True)
class Report(Account):
    """The report of a compression."""

    def html(self, path: str | Path) -> Path:
        """Write the report as a self-contained page; see `docs/report.md`.

        Raises:
            RuntimeMissingError: Jinja2 or matplotlib is not installed.
            UsageError: The file cannot be written.
        """
        return write_report(self, Path(path))


@dataclass(frozen=True)
class InspectionReport(Inspection):
    """The report of an inspection."""

    def html(self, path: str | Path) -> Path:
        """Write a self-contained page with a drawing of the network; see `docs/report.md`.

        Raises:
            RuntimeMissingError: Jinja2 or matplotlib is not installed.
            UsageError: The file cannot be written.
        """
        return write_network(self, Path(path))

"""A page as one HTML file that needs nothing else."""

from __future__ import annotations

from onnxopt.report.markdown import markdown
from onnxopt.report.page import Page


def html(page: Page) -> str:
    """The page as an HTML document."""
    return markdown(page)

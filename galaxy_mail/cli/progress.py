"""A progress bar for commands at a terminal."""

import io
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar  # click gives the type no other name


def progress(length: int, label: str) -> "ProgressBar[int]":
    """A bar on standard error if that is a terminal; otherwise the bar prints nothing."""
    where = sys.stderr if sys.stderr.isatty() else io.StringIO()
    return click.progressbar(length=length, label=label, file=where)

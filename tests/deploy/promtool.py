"""Prometheus' own checker of rules, where `deploy/fetch-promtool` could bring it."""

import subprocess
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
TOOLS: Final = ROOT / ".tools"
PROMTOOL: Final = TOOLS / "promtool"


def _why_missing() -> str:
    reason = TOOLS / "promtool.missing"
    return reason.read_text().strip() if reason.exists() else "not fetched: run deploy/fetch-promtool"


needs_promtool: Final = pytest.mark.skipif(not PROMTOOL.exists(), reason=f"no promtool: {_why_missing()}")


def promtool(*arguments: str | Path) -> str:
    """What it says. Raises AssertionError with that where it is not content."""
    done = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

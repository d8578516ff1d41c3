"""Finds the templates that come with the product."""

from pathlib import Path

import galaxy_mail


def bundled_templates() -> Path:
    """Their folder: inside the package if it is installed or frozen, beside the package in a checkout."""
    package = Path(galaxy_mail.__file__).parent
    installed = package / "templates"
    return installed if installed.is_dir() else package.parent / "templates"

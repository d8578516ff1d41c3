"""Where the templates are that come with the product."""

from pathlib import Path

import galaxy_mail


def bundled_templates() -> Path:
    """Beside the package's code where it is installed or frozen, beside the package in a checkout."""
    package = Path(galaxy_mail.__file__).parent
    installed = package / "templates"
    return installed if installed.is_dir() else package.parent / "templates"

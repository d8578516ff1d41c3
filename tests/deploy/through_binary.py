"""A pytest plugin: service processes are the frozen program, not Python with the sources. Never: a test."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import service_process
from tests.deploy.frozen import BINARY


@pytest.fixture(scope="session", autouse=True)
def _through_binary(tmp_path_factory: pytest.TempPathFactory) -> None:
    """In place of Python stands a script that drops `-m galaxy_mail` and runs the frozen program with the rest."""
    stand_in: Path = tmp_path_factory.mktemp("frozen") / "python"
    stand_in.write_text(
        f'#!/bin/sh\n[ "$1 $2" = "-m galaxy_mail" ] || exit 97\nshift 2\nexec "{BINARY}" "$@"\n'
    )
    stand_in.chmod(0o755)
    parts = vars(service_process)
    assert parts["sys"] is sys
    parts["sys"] = SimpleNamespace(executable=str(stand_in))  # only that is used

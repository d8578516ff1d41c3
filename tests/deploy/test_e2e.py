"""The end-to-end tests once more, through the frozen program: what they promise holds for what is shipped."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.deploy.frozen import BINARY, needs_frozen
from tests.deploy.promtool import ROOT

# All but those that take long and would tell nothing new. All of them: `GALAXY_PROGRAM=dist/galaxy-mail pytest tests/e2e`.
SUBJECTS: Final = ("login_codes", "commands", "command_line", "start", "stop", "traces")
# A launcher passes a signal on before the program behind it has said what to do about it: it ends by the signal then, with
# nothing begun. (Unpacked, as in the image, the program has no launcher.)
NOT_OF_A_LAUNCHER: Final = "not middle_of_the_start"


@needs_frozen
@pytest.mark.timeout(900)
def test_what_holds_from_source_holds_frozen(tmp_path: Path) -> None:
    files = [f"tests/e2e/test_{subject}.py" for subject in SUBJECTS]
    options = ["-q", "-x", "-p", "no:cacheprovider", "-k", NOT_OF_A_LAUNCHER]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, f"--basetemp={tmp_path / 'base'}", *files],
        cwd=ROOT,
        env={**os.environ, "GALAXY_PROGRAM": str(BINARY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout

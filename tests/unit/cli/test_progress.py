"""A bar for people, and nothing for programs."""

import io

import pytest

from galaxy_mail.cli.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "shown"), [(Terminal(), True), (io.StringIO(), False)])
def test_a_bar_is_shown_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, shown: bool
) -> None:
    monkeypatch.setattr("sys.stderr", stream)
    with progress(2, "publishing") as bar:
        bar.update(2)
    assert ("publishing" in stream.getvalue(), "100%" in stream.getvalue()) == (shown, shown)
    assert bool(stream.getvalue()) is shown

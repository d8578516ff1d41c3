"""Scripts as Redis knows them."""

import pytest

from galaxy_mail.storage.links.script import Script, script, scripts


def test_a_script_is_named_by_the_sha1_of_its_text() -> None:
    assert Script.of("empty", "").sha == "da39a3ee5e6b4b0d3255bfef95601890afd80709"
    assert Script.of("größe", "-- ü").sha == Script.of("other", "-- ü").sha


def test_every_script_that_ships_is_found_by_its_name() -> None:
    assert {"accept", "claim", "finish"} <= {each.name for each in scripts()}
    for each in scripts():
        assert script(each.name) is each


def test_a_script_that_does_not_exist_is_an_error_at_once() -> None:
    with pytest.raises(FileNotFoundError):
        script("no such script")

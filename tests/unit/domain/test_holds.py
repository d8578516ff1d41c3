"""Holds: their scopes and their names in the store."""

import pytest

from galaxy_mail.domain.holds import Cause, Hold, UnknownScope, all_scopes, hold_field, is_scope, parse_field


@pytest.mark.parametrize(
    "scope", ["all", "lane:priority", "lane:normal", "relay:default", "relay:" + "a" * 32]
)
def test_a_scope_is_known_by_its_form(scope: str) -> None:
    assert is_scope(scope)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ALL",
        "all ",
        "lane:",
        "lane:bulk",
        "lane:Priority",
        "relay:",
        "relay:A",
        "relay:ä",
        "relay:a:b",
        "default",
        f"relay:{'a' * 33}",
        "relay:a\n",
    ],
)
def test_other_texts_are_no_scopes(text: str) -> None:
    assert not is_scope(text)


def test_every_scope_of_a_service_has_the_form() -> None:
    scopes = all_scopes(["default", "second"])
    assert scopes == ["all", "lane:priority", "lane:normal", "relay:default", "relay:second"]
    assert all(map(is_scope, scopes))


def test_an_unknown_scope_is_answered_with_the_known_ones() -> None:
    known = "all, lane:priority, lane:normal, relay:default"
    assert str(UnknownScope(["default"])) == f"There is no such scope. Scopes: {known}."


@pytest.mark.parametrize("cause", Cause)
@pytest.mark.parametrize("scope", all_scopes(["default"]))
def test_a_name_in_the_store_gives_cause_and_scope_back(cause: Cause, scope: str) -> None:
    assert parse_field(hold_field(cause, scope)) == (cause, scope)


@pytest.mark.parametrize("field", ["", "all", "operator", "operator:", "operator:tenant:7", "planner:all"])
def test_a_name_of_a_newer_release_is_not_understood(field: str) -> None:
    assert parse_field(field) is None


def test_a_hold_is_in_force_until_its_time_is_over() -> None:
    hold = Hold(scope="all", cause=Cause.OPERATOR, reason="move", since_ms=1, until_ms=100)
    assert hold.in_force(99)
    assert not hold.in_force(100)
    assert Hold(scope="all", cause=Cause.OPERATOR, reason="move", since_ms=1).in_force(10**15)

"""Who is let in where."""

from itertools import product

import pytest

from galaxy_mail.http.tokens import ANONYMOUS, Forbidden, Role, Tokens, Unauthorized, certificate_name

BOTH = Tokens(intake=["auth-1", "auth-2"], operator=["ops-1", "ops-2"])


def bearer(token: str) -> list[str]:
    return [f"Bearer {token}"]


@pytest.mark.parametrize(("role", "number"), list(product((Role.INTAKE, Role.OPERATOR), ("1", "2"))))
def test_each_of_several_tokens_opens_its_own_routes_and_no_others(role: Role, number: str) -> None:
    mine, other = ("auth", "ops") if role is Role.INTAKE else ("ops", "auth")
    assert BOTH.admit(role, bearer(f"{mine}-{number}")).startswith("token:")
    with pytest.raises(Forbidden):
        BOTH.admit(role, bearer(f"{other}-{number}"))


@pytest.mark.parametrize(
    "authorization",
    [
        [],
        [""],
        ["Bearer"],
        ["Bearer "],
        bearer("nobody"),
        ["Basic ops-1"],
        ["ops-1"],
        ["Bearer ops-1", "Bearer ops-1"],
        bearer("öps"),
        bearer("ops-1 ops-2"),
    ],
    ids=repr,
)
def test_no_token_or_an_unknown_one_is_unauthorized(authorization: list[str]) -> None:
    with pytest.raises(Unauthorized) as raised:
        BOTH.admit(Role.OPERATOR, authorization)
    assert raised.value.challenge.startswith("Bearer")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_is_read_whatever_its_case(scheme: str) -> None:
    assert BOTH.admit(Role.OPERATOR, [f"{scheme}  ops-1"]).startswith("token:")


def test_open_routes_need_no_token() -> None:
    assert BOTH.admit(Role.OPEN, []) == ANONYMOUS


def test_without_any_token_everybody_is_let_in_everywhere() -> None:
    assert {Tokens().admit(role, []) for role in Role} == {ANONYMOUS}
    assert Tokens().admit(Role.OPERATOR, bearer("whatever")) == ANONYMOUS


def test_a_group_without_tokens_is_closed_once_the_other_has_one() -> None:
    only_intake = Tokens(intake=["auth-1"])
    with pytest.raises(Unauthorized):
        only_intake.admit(Role.OPERATOR, [])
    with pytest.raises(Forbidden):
        only_intake.admit(Role.OPERATOR, bearer("auth-1"))


def test_a_token_that_stands_in_both_groups_opens_both() -> None:
    shared = Tokens(intake=["one"], operator=["one"])
    assert shared.admit(Role.INTAKE, bearer("one")) == shared.admit(Role.OPERATOR, bearer("one"))


def test_who_it_was_tells_tokens_apart_without_telling_them() -> None:
    names = {BOTH.admit(Role.OPERATOR, bearer(token)) for token in ("ops-1", "ops-2")}
    assert len(names) == 2
    assert not any("ops" in name for name in names)


def test_who_it_was_names_the_certificate_too() -> None:
    reset = certificate_name.set("ann")
    try:
        assert Tokens().admit(Role.OPERATOR, []) == "certificate:ann"
        assert BOTH.admit(Role.OPERATOR, bearer("ops-1")).endswith(" certificate:ann")
    finally:
        certificate_name.reset(reset)


def test_every_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first match must not end the search: how long it took would tell where it was."""
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr("galaxy_mail.http.tokens.hmac.compare_digest", compare)
    BOTH.admit(Role.INTAKE, bearer("auth-1"))
    assert len(compared) == 4
    assert {len(part) for pair in compared for part in pair} == {32}

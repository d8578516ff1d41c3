"""MAIL_REDIS_ADDR: what each form means, what is refused, and that no password is ever shown."""

from pathlib import Path

import pytest

from galaxy_mail.settings.redis_address import InvalidRedisAddress, RedisAddress, parse_redis_address

A = RedisAddress


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("redis:6380", A(hosts=(("redis", 6380),))),
        ("redis", A(hosts=(("redis", 6379),))),
        ("[::1]:6380", A(hosts=(("::1", 6380),))),
        ("[fe80::1]", A(hosts=(("fe80::1", 6379),))),
        ("redis://cache.internal", A(hosts=(("cache.internal", 6379),))),
        ("redis://cache/3", A(hosts=(("cache", 6379),), database=3)),
        ("redis://cache/?db=4", A(hosts=(("cache", 6379),), database=4)),
        ("redis://:p%40ss@cache:1", A(hosts=(("cache", 1),), password="p@ss")),
        ("redis://mail:p:w@cache", A(hosts=(("cache", 6379),), username="mail", password="p:w")),
        ("redis://mail:p@w@cache", A(hosts=(("cache", 6379),), username="mail", password="p@w")),
        ("rediss://[::1]:2/5", A(hosts=(("::1", 2),), database=5, tls=True)),
        (
            "rediss://u:p@cache?ssl_ca_certs=/ca.pem&ssl_certfile=/c.pem&ssl_keyfile=/k.pem",
            A(
                hosts=(("cache", 6379),),
                username="u",
                password="p",
                tls=True,
                ca_file="/ca.pem",
                cert_file="/c.pem",
                key_file="/k.pem",
            ),
        ),
        ("unix:///run/redis.sock", A(unix_path="/run/redis.sock")),
        (
            "unix://u:p@/run/a%20b.sock?db=2",
            A(unix_path="/run/a b.sock", username="u", password="p", database=2),
        ),
        (
            "redis+sentinel://:p@s1,s2:26380,[::1]:3/mail/2?sentinel_password=q",
            A(
                hosts=(("s1", 26379), ("s2", 26380), ("::1", 3)),
                sentinel_service="mail",
                password="p",
                database=2,
                sentinel_password="q",
            ),
        ),
        ("rediss+sentinel://s1/mail", A(hosts=(("s1", 26379),), sentinel_service="mail", tls=True)),
        ("embedded:data", A(embedded_dir="data")),
        ("embedded:/var/lib/mail", A(embedded_dir="/var/lib/mail")),
        ("embedded:///var/lib/mail", A(embedded_dir="/var/lib/mail")),
    ],
)
def test_an_address_means(text: str, address: RedisAddress) -> None:
    assert parse_redis_address(text) == address


REFUSED = [
    "",
    " redis:6379",
    "redis:6379\n",
    "redis:",
    ":6379",
    "redis:0",
    "redis:65536",
    "redis:port",
    "redis:6379:1",
    "::1",
    "[::1",
    "[::1]6379",
    "[::1]:",
    "s3cret@redis:6379",
    "redis:6379/0",
    "http://redis",
    "redis://",
    "redis://s3cret@redis",
    "redis://user:@redis",
    "redis://redis/zero",
    "redis://redis/0/1",
    "redis://redis/-1",
    "redis://redis/999999",
    "redis://redis/?timeout=1",
    "redis://redis/?ssl_ca_certs=/ca.pem",
    "rediss://redis/?ssl_ca_certs=",
    "rediss://redis/?ssl_keyfile=/k.pem",
    "redis://redis/?sentinel_password=s3cret",
    "redis://:s3cret#@redis",
    "redis://[s3cret",
    "unix://",
    "unix://relative.sock",
    "unix:redis.sock",
    "redis+sentinel://s1",
    "redis+sentinel://s1/",
    "redis+sentinel:///mail",
    "redis+sentinel://s1,/mail",
    "redis+sentinel://s1/mail/x",
    "embedded:",
    "embedded://",
]


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_address_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(InvalidRedisAddress) as refused:
        parse_redis_address(text)
    assert str(refused.value)
    cause: BaseException | None = refused.value
    while cause is not None:
        assert "s3cret" not in str(cause)
        cause = cause.__cause__


def test_no_way_to_print_an_address_shows_its_passwords() -> None:
    address = parse_redis_address("redis+sentinel://mail:s3cret@s1/mail?sentinel_password=s3cret2&db=3")
    for shown in (repr(address), str(address), f"{address}", repr([address])):
        assert "s3cret" not in shown
    assert repr(address) == (
        "RedisAddress(hosts=(('s1', 26379),), sentinel_service='mail', username='mail', password=***, "
        "database=3, sentinel_password=***)"
    )
    assert str(address) == "s1:26379/mail"


@pytest.mark.parametrize("text", ["redis:6379", "[::1]:6379", "unix:///run/redis.sock", "embedded:data"])
def test_an_address_without_secrets_reads_as_it_was_written(text: str) -> None:
    assert str(parse_redis_address(text)) == text


def test_the_server_that_a_sentinel_names_gets_the_same_login() -> None:
    address = parse_redis_address("rediss+sentinel://u:p@s1,s2/mail/2?ssl_ca_certs=/ca.pem")
    assert address.at("10.0.0.7", 6380) == parse_redis_address(
        "rediss://u:p@10.0.0.7:6380/2?ssl_ca_certs=/ca.pem"
    )


def test_a_file_that_is_no_certificate_is_named(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("nothing")
    with pytest.raises(OSError, match=r"ca\.pem can't be used"):
        parse_redis_address(f"rediss://redis?ssl_ca_certs={file}").tls_context()
    with pytest.raises(OSError, match=r"ca\.pem, no key file can't be used"):
        parse_redis_address(f"rediss://redis?ssl_certfile={file}").tls_context()

"""Whether a server may hold our mail: looked at once, at the start."""

from collections.abc import Mapping
from typing import Final

from galaxy_mail.storage.links.durability import Durability
from galaxy_mail.storage.links.errors import RedisRefused, UnfitRedis
from galaxy_mail.storage.links.protocol import Command, Pipeline, Reply

OLDEST: Final = (7, 0)  # Valkey begins with 7.2

# Not run for their effect: the server's refusal is what we want to know.
_PROBE_SCRIPT: Final[Command] = ("EVALSHA", "0" * 40, 0)
_PROBE_FSYNC: Final[Command] = ("WAITAOF", 1, 0, 1)
_PROBE_REPLICA: Final[Command] = ("WAIT", 0, 1)


async def check_redis(pipeline: Pipeline, *, durability: Durability = Durability.SERVER) -> tuple[str, ...]:
    """What an operator should be warned of. Raises UnfitRedis with everything that rules this server out."""
    replies = await pipeline(
        [
            ("HELLO",),  # what INFO says of version, mode and role, for users who may not ask INFO
            ("INFO",),
            ("CONFIG", "GET", "maxmemory-policy"),
            ("CONFIG", "GET", "appendfsync"),
            _PROBE_SCRIPT,
            _PROBE_FSYNC if durability is Durability.FSYNC else ("PING",),
            _PROBE_REPLICA if durability is Durability.REPLICA else ("PING",),
        ]
    )
    hello, info, policy, appendfsync, script, fsync, replica = replies
    server = _pairs(hello) | _info(info)
    reasons = [
        *_unfit_server(server),
        *_unfit_policy(_pairs(policy).get("maxmemory-policy") or server.get("maxmemory_policy")),
    ]
    if isinstance(script, RedisRefused) and script.code != "NOSCRIPT":
        reasons.append(f"the user may not run scripts ({script})")
    if isinstance(fsync, RedisRefused):
        reasons.append(
            "MAIL_REDIS_DURABILITY=fsync needs WAITAOF (Redis 7.2 or Valkey) and an append-only file"
            f" (appendonly yes): {fsync}"
        )
    if durability is Durability.FSYNC and _pairs(appendfsync).get("appendfsync") == "no":
        reasons.append(
            "MAIL_REDIS_DURABILITY=fsync needs appendfsync everysec or always: with no, nothing would ever be confirmed"
        )
    if isinstance(replica, RedisRefused):
        reasons.append(f"MAIL_REDIS_DURABILITY=replica needs WAIT: {replica}")
    if reasons:
        raise UnfitRedis(tuple(reasons))
    return _warnings(server, _pairs(policy), _pairs(appendfsync), durability)


def _unfit_server(server: Mapping[str, str]) -> list[str]:
    reasons = []
    version = server.get("valkey_version") or server.get("redis_version") or server.get("version", "")
    numbers = _numbers(version)
    if numbers and numbers < OLDEST:  # a build from source may have a name instead
        reasons.append(f"Redis 7.0 or Valkey 7.2 is the oldest that serves, this is {version}")
    if server.get("cluster_enabled") == "1" or "cluster" in (server.get("mode"), server.get("redis_mode")):
        reasons.append(
            "cluster mode is on: our scripts touch keys of several slots; use one server, or Sentinel"
        )
    if server.get("role") in {"slave", "replica"}:
        reasons.append("it is a replica, which takes no writes")
    return reasons


def _unfit_policy(policy: str | None) -> list[str]:
    if policy is None or policy == "noeviction":
        return []
    return [f"maxmemory-policy is {policy}: a full server would silently drop accepted mail; set noeviction"]


def _warnings(
    server: Mapping[str, str],
    policy: Mapping[str, str],
    appendfsync: Mapping[str, str],
    durability: Durability,
) -> tuple[str, ...]:
    warnings = []
    if not policy and "maxmemory_policy" not in server:
        warnings.append(
            "maxmemory-policy can't be read: unless it is noeviction, a full server drops accepted mail"
        )
    match server.get("aof_enabled"):
        case "0":
            warnings.append("the append-only file is off: a crash of the server loses accepted mail")
        case "1" if appendfsync.get("appendfsync") == "no":
            warnings.append(
                "appendfsync is no: a crash of the host loses what it accepted in the last half minute"
            )
        case None:
            warnings.append(
                "INFO can't be read: without an append-only file a crash of the server loses accepted mail"
            )
    if durability is Durability.REPLICA and server.get("connected_slaves") == "0":
        warnings.append(
            "MAIL_REDIS_DURABILITY=replica, but no replica is connected: nothing will be accepted until then"
        )
    return tuple(warnings)


def _pairs(reply: Reply) -> dict[str, str]:
    """A flat list of names and values, as HELLO and CONFIG GET answer; nothing where they were refused."""
    if not isinstance(reply, list):
        return {}
    flat = iter(reply)
    return {
        _text(name): _text(value)
        for name, value in zip(flat, flat, strict=True)
        if not isinstance(value, list)
    }


def _info(reply: Reply) -> dict[str, str]:
    if not isinstance(reply, bytes):
        return {}
    lines = reply.decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))


def _text(value: Reply) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _numbers(version: str) -> tuple[int, ...]:
    """Of "7.4.0-rc1": (7, 4, 0)."""
    return tuple(int(part) for part in version.partition("-")[0].split(".") if part.isdecimal())

"""Which series a PromQL expression asks for, and what the service shows."""

import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from galaxy_mail.actors.supervisor import ActorStatus
from galaxy_mail.domain.commands import FailureCode
from galaxy_mail.domain.conclusion import CRASH_LOOP, RETRIES_EXHAUSTED
from galaxy_mail.domain.holds import DEFAULT_RELAY, Cause, all_scopes
from galaxy_mail.domain.records import AttemptStatus, DeliveryStatus, Lane, Result, Source
from galaxy_mail.providers.smtp.outcomes import OUTCOMES
from galaxy_mail.storage.operations.identity import Verdict
from galaxy_mail.telemetry import metrics as telemetry
from galaxy_mail.telemetry.metrics import Metrics
from galaxy_mail.telemetry.series import Counter, Histogram
from tests.contracts.documents import METHODS, openapi

TARGET_LABELS: Final = frozenset({"job", "namespace", "instance", "pod"})  # Prometheus' own, not ours

_STRING: Final = r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\''
_GROUPING: Final = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^()]*\)")
_DURATION: Final = re.compile(r"\[[^\]]*\]")
_SELECTOR: Final = re.compile(
    rf"(?<![\w.:])([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(\{{(?:[^{{}}\"']|{_STRING})*\}}|\(|(?![\w:]))"
)
_MATCHER: Final = re.compile(rf"\s*([a-zA-Z_]\w*)\s*(=~|!~|!=|=)\s*({_STRING})\s*,?")
_WORDS: Final = frozenset({"and", "or", "unless", "offset", "bool", "inf", "nan"})


class Matcher(NamedTuple):
    label: str
    operator: str
    value: str

    def takes(self, value: str) -> bool:
        same = re.fullmatch(self.value, value) is not None if "~" in self.operator else self.value == value
        return same is not self.operator.startswith("!")


class Selector(NamedTuple):
    """One `name{label="value"}`."""

    metric: str
    matchers: tuple[Matcher, ...]


def selectors(expression: str) -> Iterator[Selector]:
    """Every series that the expression asks for, in order."""
    bare = _DURATION.sub(" ", _GROUPING.sub(" ", expression))
    for name, rest in _SELECTOR.findall(bare):
        if rest != "(" and name.lower() not in _WORDS:
            matchers = (
                Matcher(label, operator, text[1:-1].replace("\\\\", "\\"))
                for label, operator, text in _MATCHER.findall(rest.strip("{}"))
            )
            yield Selector(name, tuple(matchers))


def shown() -> Mapping[str, frozenset[str]]:
    """Every metric of `/metrics`, by the name of its series, with its labels."""
    metrics = Metrics()
    found: dict[str, frozenset[str]] = {"galaxy_mail_build_info": frozenset({"version"})}
    for part in vars(metrics).values():
        if isinstance(part, Counter):
            found[f"{part._name}_total"] = frozenset(part._labels)
        if isinstance(part, Histogram):
            labels = frozenset({part._label} if part._label else ())
            found[f"{part._name}_bucket"] = labels | {"le"}
            found[f"{part._name}_sum"] = found[f"{part._name}_count"] = labels
    for gauge, (_, labels_of_gauge) in telemetry._GAUGES.items():
        found[f"galaxy_mail_{gauge}"] = frozenset(labels_of_gauge)
    for line in metrics.exposition().decode().splitlines():
        if line.startswith("process_"):
            found[line.split()[0]] = frozenset()
    return found


def values(metric: str, label: str) -> frozenset[str] | None:
    """Which values a label may have; None where they are without a closed set."""
    base = re.sub(r"_(total|bucket|sum|count)$", "", metric).removeprefix("galaxy_mail_")
    if label == "status":
        by_metric: dict[str, frozenset[str]] = {
            "attempts": frozenset(AttemptStatus),
            "delivery_statuses": frozenset(DeliveryStatus),
            "actors": frozenset(ActorStatus),
            "http_responses": frozenset(str(status) for status in range(200, 600)),
        }
        return by_metric[base]
    if label == "code":
        return frozenset(FailureCode) if base == "malformed_commands" else _failure_codes()
    closed: dict[str, frozenset[str]] = {
        "cause": frozenset(Cause),
        "kind": frozenset(Verdict) - {Verdict.SAME},
        "lane": frozenset(Lane),
        "link": frozenset({"data", "control"}),
        "reason": frozenset({RETRIES_EXHAUSTED, CRASH_LOOP}),
        "result": frozenset(Result),
        "route": _routes(),
        "scope": frozenset(all_scopes([DEFAULT_RELAY])),
        "source": frozenset(Source),
    }
    return closed.get(label)


def _failure_codes() -> frozenset[str]:
    return frozenset(outcome.failure_code for outcome in OUTCOMES.values() if outcome.failure_code)


def _routes() -> frozenset[str]:
    """As routes name themselves."""
    return frozenset(
        f"{method.upper()} {path.replace('{', '<').replace('}', '>')}"
        for path, operations in openapi()["paths"].items()
        for method in operations
        if method in METHODS
    )

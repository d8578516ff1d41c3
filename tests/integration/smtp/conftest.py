"""Relays that we did not write, started once for the tests of this folder, and the next hop behind them."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from tests.relays.aiosmtpd_relay import aiosmtpd_running
from tests.relays.exim import Exim
from tests.relays.opensmtpd import OpenSmtpd
from tests.relays.postfix import Postfix
from tests.relays.real import Certificates, Recipe, Relay, Unavailable, running, skip_without
from tests.relays.sink import Sink, sink_running

RECIPES: dict[str, Recipe] = {"postfix": Postfix(), "opensmtpd": OpenSmtpd(), "exim": Exim()}


@dataclass(frozen=True)
class Onward:
    """A relay with the next hop that it passes mail on to."""

    relay: Relay
    ca_file: str
    sink: Sink


@pytest.fixture(scope="session")
def certificates() -> Certificates:
    ca = trustme.CA()
    issued = ca.issue_cert("localhost", "127.0.0.1")
    return Certificates(
        ca=ca.cert_pem.bytes(),
        chain=b"".join(pem.bytes() for pem in issued.cert_chain_pems),
        key=issued.private_key_pem.bytes(),
    )


@pytest.fixture(scope="session", params=[*RECIPES, "aiosmtpd"])
def onward(
    request: pytest.FixtureRequest, certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Onward]:
    folder: Path = tmp_path_factory.mktemp(request.param)
    (folder / "ca.pem").write_bytes(certificates.ca)
    with ExitStack() as stack:
        sink = stack.enter_context(sink_running())
        try:
            if request.param == "aiosmtpd":
                relay = stack.enter_context(aiosmtpd_running(certificates, sink.port, folder))
            else:
                relay = stack.enter_context(running(RECIPES[request.param], certificates, sink.port))
        except Unavailable as why:
            skip_without(request.param, why)
        yield Onward(relay, str(folder / "ca.pem"), sink)

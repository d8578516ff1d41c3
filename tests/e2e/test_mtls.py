"""Mutual TLS from end to end: the service asks for a certificate, and the command line has one to show."""

from pathlib import Path

import trustme

from tests.servers import valkey_server
from tests.service_process import fleet_of


async def test_the_command_line_gets_in_with_its_certificate_alone(tmp_path: Path) -> None:
    authority = trustme.CA()
    paths = {
        name: str(tmp_path / name) for name in ("ca.pem", "server.pem", "server.key", "ann.pem", "ann.key")
    }
    authority.cert_pem.write_to_path(paths["ca.pem"])
    server = authority.issue_cert("localhost", "127.0.0.1")
    # With an address, since an empty subjectAltName is none (RFC 5280 §4.2.1.6).
    ann = authority.issue_cert("ann@example.org", common_name="ann")
    for owner, name in ((server, "server"), (ann, "ann")):
        owner.private_key_pem.write_to_path(paths[f"{name}.key"])
        for number, blob in enumerate(owner.cert_chain_pems):
            blob.write_to_path(paths[f"{name}.pem"], append=number > 0)
    async with (
        valkey_server("--appendonly", "yes") as valkey,
        fleet_of(
            {
                "MAIL_REDIS_ADDR": valkey.url,
                "MAIL_TLS_CERT_FILE": paths["server.pem"],
                "MAIL_TLS_KEY_FILE": paths["server.key"],
                "MAIL_TLS_CLIENT_CA_FILE": paths["ca.pem"],
            }
        ) as fleet,
    ):
        service = fleet.start()
        await service.wait_line("redis_connected")
        believing = {"api_url": service.url, "api_ca_file": paths["ca.pem"]}
        named = {**believing, "api_cert_file": paths["ann.pem"], "api_key_file": paths["ann.key"]}

        async def add(settings: dict[str, str]) -> tuple[int | None, str]:
            command = fleet.start("suppressions", "add", "bob@example.org", "--reason", "left", **settings)
            return await command.wait_ended(), command.output

        status, said = await add(believing)
        assert status == 3, said
        status, said = await add(named)
        assert status == 0, said
        line = await service.wait_line("operator_action")
        assert "certificate:ann" in line["who"]
        await service.stop()

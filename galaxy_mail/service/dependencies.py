"""What a service depends on: Redis, a relay, templates, a clock.

In production these are real; the simulation passes its own.
"""

from collections.abc import Callable
from typing import Final, Protocol

from galaxy_mail.config import Config
from galaxy_mail.providers.mime import MailFrom
from galaxy_mail.providers.provider import Provider
from galaxy_mail.providers.smtp.provider import SmtpProvider
from galaxy_mail.providers.smtp.settings import SmtpSettings, TlsMode, tls_context
from galaxy_mail.providers.stub import StubProvider, StubScript
from galaxy_mail.rendering.bundled import bundled_templates
from galaxy_mail.rendering.catalog import Catalog
from galaxy_mail.rendering.limits import RenderLimits
from galaxy_mail.settings.redis_address import RedisAddress
from galaxy_mail.storage.links.clock import Clock
from galaxy_mail.storage.links.durability import Durability
from galaxy_mail.storage.links.gateway import Gateway, GatewayStatistics, OnConnect
from galaxy_mail.storage.links.protocol import RedisLink

NO_DOMAIN: Final = "galaxy-mail.invalid"  # of Message-ID where the stub has no sender's address
REDIS_WITHIN_S: Final = 3.0  # the time-out of each call
REDIS_AT_LEAST_S: Final = (
    1.0  # however short the time-out of requests is: batches of commands take longer than a request
)
AFTER_GRACE_S: Final = 0.5  # what a slot's provider may still wait for once the grace of a stop is over


class RedisGateway(RedisLink, Protocol):
    """The gateway as the service uses it: an actor, and the link to Redis."""

    @property
    def connected(self) -> bool: ...

    @property
    def clock(self) -> Clock: ...

    async def run(self) -> None: ...

    def statistics(self) -> GatewayStatistics: ...


class Dependencies(Protocol):
    def gateway(self, on_connect: OnConnect) -> RedisGateway: ...

    def provider(self) -> Provider:
        """A new one for each run of a slot."""
        ...

    def catalog(self) -> Catalog: ...


class ProductionDependencies:
    """Redis over its gateway, and the relay or the stub that the configuration names."""

    def __init__(self, config: Config, address: RedisAddress) -> None:
        self._address = address
        self._durability = Durability(config.redis_durability)
        # Shorter than a request's own time-out, so that the caller's error names Redis.
        share_s = 0.6 * config.operator_request_timeout_ms / 1000
        self.redis_timeout_s = max(REDIS_AT_LEAST_S, min(REDIS_WITHIN_S, share_s))
        self._templates = config.template_dir or bundled_templates()
        self.provider = provider_factory(config)

    def gateway(self, on_connect: OnConnect) -> Gateway:
        return Gateway(
            self._address,
            durability=self._durability,
            on_connect=on_connect,
            timeout_s=self.redis_timeout_s,
        )

    def catalog(self) -> Catalog:
        """Raises BrokenCatalog."""
        return Catalog.load(self._templates, limits=RenderLimits())


def provider_factory(config: Config) -> Callable[[], Provider]:
    """Makes each slot's provider. Raises BadCaFile."""
    if config.smtp_mode == "stub":
        sender = MailFrom(
            email=config.smtp_from_email or f"galaxy-mail@{NO_DOMAIN}", name=config.smtp_from_name or None
        )
        script = config.stub_script or StubScript()
        return lambda: StubProvider(outbox=config.stub_outbox, script=script, sender=sender)
    assert config.smtp_addr is not None, "the configuration was checked"
    assert config.smtp_from_email is not None, "likewise"
    settings = SmtpSettings(
        host=config.smtp_addr.host,
        port=config.smtp_addr.port,
        from_email=config.smtp_from_email,
        from_name=config.smtp_from_name,
        username=config.smtp_username,
        password=config.smtp_password,
        tls=TlsMode(config.smtp_tls),
        ca_file=str(config.smtp_ca_file) if config.smtp_ca_file else None,
        timeout_s=config.smtp_timeout_ms / 1000,
        final_timeout_s=config.smtp_final_timeout_ms / 1000,
        stop_grace_s=AFTER_GRACE_S,
    )
    tls = None if settings.tls is TlsMode.NONE else tls_context(settings.ca_file)
    return lambda: SmtpProvider(settings, tls=tls)

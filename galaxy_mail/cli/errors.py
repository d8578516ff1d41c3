"""The error that commands share, whatever they talk to."""

from typing import Final

from galaxy_mail.domain.errors import GalaxyMailError


class Unreachable(GalaxyMailError):
    """The service or Redis does not answer, gives no sensible answer, or can't serve now."""

    exit_status: Final = 3

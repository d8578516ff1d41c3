"""A route: its method, path, role and handler."""

from collections.abc import Awaitable, Callable

from msgspec import Struct

from galaxy_mail.http.responses import Response
from galaxy_mail.http.tokens import Role

Handler = Callable[..., Awaitable[Response]]  # called with the request and the path's variables by name

API: str = "/api/v1/internal"


class Route(Struct, frozen=True):
    """One method of one path. `rule` has the syntax of werkzeug: `/deliveries/<delivery_id>`."""

    method: str
    rule: str
    role: Role
    handler: Handler

    @property
    def name(self) -> str:
        """For logs and metrics: unlike paths, names are limited in number."""
        return f"{self.method} {self.rule}"

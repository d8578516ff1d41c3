"""What a route is: its method, its path, whom it is for, and who answers."""

from collections.abc import Awaitable, Callable

from msgspec import Struct

from galaxy_mail.http.responses import Response
from galaxy_mail.http.tokens import Role

Handler = Callable[..., Awaitable[Response]]  # given the request, and the path's variables by their names

API: str = "/api/v1/internal"


class Route(Struct, frozen=True):
    """One method of one path. `rule` is spelt as werkzeug's: `/deliveries/<delivery_id>`."""

    method: str
    rule: str
    role: Role
    handler: Handler

    @property
    def name(self) -> str:
        """Unique, and bounded in number: fit for logs and metrics, which the path is not."""
        return f"{self.method} {self.rule}"

"""Claims without a store: for actors that only hand them on."""

from galaxy_mail.domain.records import Lane
from galaxy_mail.storage.operations.claims import Claim
from tests.deliveries import acceptance_of, login_code_of, request_of


def claim_of(name: str, lane: Lane = Lane.NORMAL, *, losses: int = 0) -> Claim:
    """A claim of a delivery that has not begun: a login code in the priority lane, ready content in the normal one."""
    made = acceptance_of(login_code_of(name) if lane is Lane.PRIORITY else request_of(name))
    assert made.attempt is not None
    return Claim(
        delivery_id=name,
        token=f"1-{name}",
        lane=lane,
        losses=losses,
        epoch=0,
        delivery=made.delivery,
        attempt=made.attempt,
        content=made.content,
        rendered=None,
    )

"""A store and a provider that do what a test says, for actors in virtual time. Both keep the promises of the real ones."""

from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Final, Self

import trio
from msgspec.structs import replace

from galaxy_mail.domain.conclusion import Begun, Conclusion, Returned
from galaxy_mail.domain.records import Failure, Lane, RenderedContent, SendResult
from galaxy_mail.providers.provider import Message, SendDeadline
from galaxy_mail.storage.operations.answers import NewlySuppressed
from galaxy_mail.storage.operations.claims import Claim, Claimed
from tests.deliveries import ACCEPTED, HUNG_UP, UNKNOWN

START_MS: Final = 4_100_000_000_123
TTL_S: Final = 30.0


class TrioClock:
    """Passes as trio's clock does."""

    def now_ms(self) -> int:
        return START_MS + round(trio.current_time() * 1000)

    def script_ms(self) -> int:
        return self.now_ms()


class FakeStore:
    """Answers at once and successfully, unless told otherwise."""

    def __init__(self, ttl_s: float = TTL_S) -> None:
        self.claim_ttl_ms = round(ttl_s * 1000)
        self.calls: list[tuple[str, str]] = []  # what was asked for, about which delivery
        self.at_s: list[tuple[str, float]] = []  # and when
        self.troubles: defaultdict[str, deque[Exception | None]] = defaultdict(deque)
        self.waits: dict[str, trio.Event] = {}  # a call of this name does not return before
        self.due: deque[Claim] = deque()
        self.next_due_ms: int | None = None
        self.suppressed: deque[dict[str, str]] = deque()  # what the next begins find
        self.begun: list[Begun] = []
        self.rendered: list[RenderedContent | None] = []
        self.concluded: list[Conclusion] = []
        self.returned: list[Returned] = []

    def fail(self, name: str, *troubles: Exception | None) -> None:
        """The next calls of this name end so; None is a call that succeeds."""
        self.troubles[name].extend(troubles)

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    async def _call(self, name: str, about: str = "") -> None:
        self.calls.append((name, about))
        self.at_s.append((name, trio.current_time()))
        await trio.lowlevel.checkpoint()
        if name in self.waits:
            await self.waits[name].wait()
        if self.troubles[name]:
            trouble = self.troubles[name].popleft()
            if trouble is not None:
                raise trouble

    async def claim(self, *, priority_places: int, normal_places: int, check_lost: bool) -> Claimed:
        # Whoever is cancelled while it waits for the answer can't undo what Redis does: so it is done first.
        places = {Lane.PRIORITY: priority_places, Lane.NORMAL: normal_places}
        claims: list[Claim] = []
        left: list[Claim] = []
        for claim in self.due:
            fits = places[claim.lane] > 0
            places[claim.lane] -= fits
            (claims if fits else left).append(claim)
        self.due = deque(left)
        await self._call("claim", f"{priority_places}/{normal_places}" + ("/lost" if check_lost else ""))
        return Claimed(
            claims=claims,
            now_ms=TrioClock().now_ms(),
            next_due_ms=self.next_due_ms,
            more=frozenset(claim.lane for claim in left),
            parked=[],
        )

    async def load(self, claim: Claim) -> Claim:
        await self._call("load", claim.delivery_id)
        return claim

    async def begin(
        self,
        claim: Claim,
        begun: Begun,
        *,
        rendered: RenderedContent | None,
        unless_suppressed: Sequence[str] = (),
    ) -> NewlySuppressed | None:
        await self._call("begin", claim.delivery_id)
        if self.suppressed and unless_suppressed:
            return NewlySuppressed(self.suppressed.popleft())
        self.begun.append(begun)
        self.rendered.append(rendered)
        return None

    async def finish(self, claim: Claim, conclusion: Conclusion) -> None:
        await self._call("finish", claim.delivery_id)
        self.concluded.append(conclusion)

    async def release(self, claim: Claim, returned: Returned) -> None:
        await self._call("release", claim.delivery_id)
        self.returned.append(returned)

    async def renew(self, claim: Claim) -> None:
        await self._call("renew", claim.delivery_id)


async def nothing() -> None:
    pass


class FakeProvider:
    """One slot's way out. `before_dot` and `after_dot` are what the relay takes its time for."""

    name: str = "fake"

    def __init__(self, answer: SendResult = ACCEPTED) -> None:
        self.answer = answer
        self.before_dot: Callable[[], Awaitable[None]] = nothing
        self.after_dot: Callable[[], Awaitable[None]] = nothing
        self.stop_grace_s = 0.5  # how long a cancelled call waits for the answer to its dot
        self.asked: list[Message] = []
        self.taken: list[Message] = []  # those whose dot is out: nothing takes it back
        self.open = 0
        self.idle_checks: list[bool] = []  # each whether `at_once`

    async def __aenter__(self) -> Self:
        self.open += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.open -= 1

    async def close_idle(self, *, at_once: bool = False) -> None:
        self.idle_checks.append(at_once)

    async def probe(self) -> SendResult | None:
        return None

    async def send(self, message: Message, *, may_finish: SendDeadline) -> SendResult:
        self.asked.append(message)
        await trio.lowlevel.checkpoint()
        await self.before_dot()
        if not may_finish():
            return replace(HUNG_UP, failure=replace(_failure(HUNG_UP), code="claim_running_out"))
        self.taken.append(message)
        answered = False
        try:
            await self.after_dot()
            answered = True
        except trio.Cancelled:
            with trio.move_on_after(self.stop_grace_s, shield=True):
                await self.after_dot()
                answered = True
        return self.answer if answered else UNKNOWN


def _failure(result: SendResult) -> Failure:
    assert result.failure is not None
    return result.failure

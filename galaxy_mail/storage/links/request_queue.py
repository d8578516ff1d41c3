"""Requests on their way to Redis: a bounded queue, and a slot per caller for the replies.

Both links serve such queues. What a caller sees of deadlines, cancellation and unknown scripts is decided here, once.
"""

from collections import deque
from collections.abc import Sequence
from math import inf
from typing import Final

import hiredis
import trio

from galaxy_mail.storage.links.errors import OutcomeUnknown, RedisFailure, RedisRefused, RedisUnavailable
from galaxy_mail.storage.links.protocol import Call, Command, Reply

QUEUE_SIZE: Final = (
    1024  # requests that may wait to be written; the next ones wait outside, within their deadline
)


class Request:
    """The commands of one caller, packed, and what becomes of them.

    Owned by the link once it is in a queue. Its caller waits for `settle` and may leave at any time: then a request
    that isn't written yet is skipped, and the replies to a written one are dropped. The connection never notices.
    """

    __slots__ = (
        "_task",
        "abandoned",
        "barred",
        "count",
        "deadline",
        "error",
        "payload",
        "refused",
        "replies",
        "settled",
        "timeout_s",
        "written",
    )

    def __init__(self, commands: Sequence[Command | Call], timeout_s: float, deadline: float = inf) -> None:
        self.payload = b"".join([pack(command) for command in commands])
        self.count = len(commands)
        self.timeout_s = timeout_s
        self.deadline = deadline  # trio's clock
        self.replies: list[Reply] = []
        self.refused = False  # an error reply is among them
        self.error: RedisFailure | None = None
        self.written = False
        self.barred = False  # its replies alone don't settle it
        self.settled = False
        self.abandoned = False
        self._task: trio.lowlevel.Task | None = None

    def settle(self, error: RedisFailure | None = None) -> None:
        """The replies are complete, or never will be. Only the first of two settlements counts."""
        if self.settled:
            return
        self.settled = True
        self.error = error
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)
            self._task = None

    def expire(self) -> None:
        """Nobody waits for it any longer: its time is over."""
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)
            self._task = None
            self.abandoned = True

    async def wait_settled(self) -> None:
        """Returns once it is settled, or has expired."""
        if not self.settled:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abandon)

    def _abandon(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._task = None
        self.abandoned = True
        return trio.lowlevel.Abort.SUCCEEDED


def pack(command: Command | Call) -> bytes:
    """One command in the protocol's form. Raises TypeError for an argument that has none."""
    if type(command) is Call:
        keys = command.keys
        command = ("EVALSHA", command.script.sha, len(keys), *keys, *command.args)
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub allows one argument only
    return packed


class RequestQueue:
    """Where callers leave requests and one link takes them. Bounded; every call has a deadline."""

    def __init__(self, *, timeout_s: float, size: int = QUEUE_SIZE) -> None:
        self._timeout_s = timeout_s
        self._inlet, self.outlet = trio.open_memory_channel[Request](size)
        self._refusal: str | None = None
        self._waiting: set[Request] | None = None  # whose deadlines are kept for them; None: for nobody

    def __len__(self) -> int:
        return self.outlet.statistics().current_buffer_used

    async def pipeline(
        self, commands: Sequence[Command | Call], *, timeout_s: float | None = None
    ) -> list[Reply]:
        """See RedisLink.pipeline. A script that the server lacks is loaded, and its calls repeated: they never ran."""
        if not commands:
            await trio.lowlevel.checkpoint()
            return []
        if timeout_s is None:
            timeout_s = self._timeout_s
        deadline = trio.current_time() + timeout_s
        waiting = self._waiting if timeout_s >= self._timeout_s else None
        request = await self._exchange(commands, timeout_s, deadline, waiting)
        if request.refused:
            await self._repeat_unknown(commands, request.replies, timeout_s, deadline)
        return request.replies

    async def keep_deadlines(self) -> None:
        """Lets requests expire, for as long as it runs: a cancel scope for each would cost as much as all else of it.

        Whoever cancels it refuses, or settles, what waits then.
        """
        waiting: set[Request] = set()
        self._waiting = waiting
        try:
            while True:
                now = trio.current_time()
                # Whoever comes meanwhile has as long at least.
                next_s = now + self._timeout_s
                for request in waiting:
                    if request.deadline <= now:
                        request.expire()
                    else:
                        next_s = min(next_s, request.deadline)
                await trio.sleep_until(next_s)
        finally:
            self._waiting = None

    def refuse(self, reason: str) -> None:
        """From now on nothing is taken, and what waits is given back: RedisUnavailable."""
        self._refusal = reason
        while True:
            try:
                self.outlet.receive_nowait().settle(RedisUnavailable(reason))
            except trio.WouldBlock:
                return

    def take_again(self) -> None:
        self._refusal = None

    def close(self) -> None:
        """Nothing more comes: whoever serves the queue ends when it is empty."""
        self._inlet.close()

    async def _exchange(
        self,
        commands: Sequence[Command | Call],
        timeout_s: float,
        deadline: float,
        waiting: set[Request] | None = None,
    ) -> Request:
        """`waiting`: whose deadlines are kept, if this one's is, too; it must be the usual time-out away at least."""
        if self._refusal is not None:
            await trio.lowlevel.checkpoint()
            raise RedisUnavailable(self._refusal)
        request = Request(commands, timeout_s, deadline)
        try:
            self._inlet.send_nowait(request)
        except trio.WouldBlock:
            with trio.move_on_at(deadline):
                await self._inlet.send(request)
                await request.wait_settled()
        else:
            if waiting is None:
                with trio.move_on_at(deadline):
                    await request.wait_settled()
            else:
                waiting.add(request)
                try:
                    await request.wait_settled()
                finally:
                    waiting.remove(request)
        if request.settled:
            if request.error is not None:
                raise request.error
            return request
        if request.written:
            raise OutcomeUnknown(f"Redis gave no answer within {timeout_s:g} s")
        raise RedisUnavailable(f"nothing could be sent to Redis within {timeout_s:g} s")

    async def _repeat_unknown(
        self, commands: Sequence[Command | Call], replies: list[Reply], timeout_s: float, deadline: float
    ) -> None:
        """Loads the scripts that the server didn't know and runs their calls: in place, after the rest of the pipeline."""
        calls: list[tuple[int, Call]] = []
        for slot, (command, reply) in enumerate(zip(commands, replies, strict=True)):
            if type(reply) is RedisRefused and reply.code == "NOSCRIPT" and type(command) is Call:
                calls.append((slot, command))
        if not calls:
            return
        unknown = list({call.script.sha: call.script for _, call in calls}.values())
        loads: list[Command | Call] = [("SCRIPT", "LOAD", script.text) for script in unknown]
        try:
            request = await self._exchange([*loads, *(call for _, call in calls)], timeout_s, deadline)
        except RedisUnavailable as error:
            if len(calls) == len(commands):
                raise
            raise OutcomeUnknown("a part was executed, the rest met a server without its scripts") from error
        again = deque(request.replies)
        loaded = {script.sha: again.popleft() for script in unknown}
        for slot, call in calls:
            refused = loaded[call.script.sha]
            reply = again.popleft()
            replies[slot] = refused if type(refused) is RedisRefused else reply

"""Sends messages over one connection to the relay, with deadlines.

With a relay that supports pipelining, a message to one recipient takes two round trips: MAIL, RCPT and DATA in one write;
then the body and the final dot in another. With several recipients, DATA needs a third. RSET is not sent between messages,
because the reply to a final dot clears all buffers (RFC 5321 §4.1.1.4), and a connection ends after a refusal.

We know exactly when the relay can have the message. The final dot is sent with the last bytes of the body, and trio's
streams return from `send_all` only after the kernel has taken every byte. If a `send_all` was cancelled, timed out or
failed, the final line is incomplete, and the relay must discard the message. Only after it has returned is the outcome
open. `send_at_once`, which sends most messages, is cancelled either before it has sent a byte or not at all.
"""

from contextlib import suppress
from math import inf
from typing import Final

import trio
from msgspec import Struct

from galaxy_mail.network.socket_stream import ConversationStream
from galaxy_mail.providers.provider import SendDeadline
from galaxy_mail.providers.smtp.conversation import (
    READ_BYTES,
    Conversation,
    ExchangeEnded,
    body_ended,
)
from galaxy_mail.providers.smtp.outcomes import (
    Answered,
    Ended,
    Ending,
    Exchange,
    classify,
    envelope_verdict,
    may_be_stale,
)
from galaxy_mail.providers.smtp.protocol import State
from galaxy_mail.providers.smtp.replies import NotSmtp, Reply

_CHUNK_BYTES: Final = 32_768  # the time-out is per chunk: 2 kB/s are enough to stay within 15 s
_EARLY_REPLY_WITHIN_S: Final = 0.5  # for the rest of a reply that the relay began in the middle of a message
_REUSABLE: Final = (State.READY, State.ENVELOPE)


class Mail(Struct, frozen=True, kw_only=True):
    """The content of one transaction, encoded for this relay."""

    mail_argument: bytes
    recipients: tuple[tuple[str, bytes], ...]  # address, RCPT argument
    wire: bytes  # the dot-stuffed message without the final dot


class StaleConnection(Exception):
    """The message may do better on a new connection than on this reused one. The relay can't have it."""


class Session:
    """Sends messages, one at a time, until it is no longer reusable. The conversation's `quit` or `drop` ends it."""

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self._settings = conversation.settings
        self._smtp = conversation.smtp
        self._messages = 0
        self._refused = False
        self._idle_since_s = trio.current_time()

    @property
    def is_used_up(self) -> bool:
        """Whether the connection ends after this message: relays count messages and refusals, and delay what follows."""
        return self.conversation.is_broken or self._refused or self._messages >= self._settings.messages_max

    @property
    def is_idle(self) -> bool:
        """Whether the connection has been idle for too long."""
        return trio.current_time() - self._idle_since_s >= self._settings.idle_max_s

    def is_reusable(self) -> bool:
        """Whether another message may be sent. Not if the relay has sent anything or closed the connection meanwhile."""
        return (
            not self.is_used_up
            and not self.is_idle
            and self._smtp.is_quiet
            and not self.conversation.has_something_to_read()
        )

    async def probe(self, sender: bytes) -> None:
        """Asks whether the relay takes mail of this sender. Raises ExchangeEnded if not."""
        with trio.move_on_after(self._settings.timeout_s) as patience:
            await self.conversation.command("MAIL", sender)
            with suppress(ExchangeEnded):  # the relay has said what was asked
                await self.conversation.command("RSET")
        if patience.cancelled_caught:
            raise self.conversation.timed_out()

    async def transact(self, mail: Mail, *, may_finish: SendDeadline) -> Ended:
        """Sends one message and returns how that ended. Sets `conversation.is_broken`.

        Raises StaleConnection if the message can be sent on another connection without a new attempt. Lets
        trio.Cancelled out only while the relay can't have the message.
        """
        reused = self._messages > 0
        self._messages += 1
        answers: list[Answered] = []
        kept = True
        self.conversation.is_broken = True  # until the end is known
        try:
            # One scope for both waits of a message, because a scope costs about as much as a wait.
            with trio.move_on_after(self._settings.timeout_s) as patience:
                ended = await self._envelope(mail, answers) or await self._content(
                    mail.wire, may_finish, patience
                )
            if patience.cancelled_caught:
                raise self.conversation.timed_out()
        except ExchangeEnded as raised:
            ended = raised.ended
            if refusal := envelope_verdict(answers):
                # The relay had refused before the connection ended.
                ended, kept = refusal, False
        self._refused = ended.ending is not Ending.ACCEPTED
        usable = kept and ended.outcome.intact and self._smtp.state in _REUSABLE
        self.conversation.is_broken = not usable
        self._idle_since_s = trio.current_time()
        if reused and may_be_stale(ended, first=not answers):
            raise StaleConnection
        return ended

    # Envelope

    async def _envelope(self, mail: Mail, answers: list[Answered]) -> Ended | None:
        """Sends all commands before the message and collects their answers. None: the relay waits for the message."""
        smtp = self._smtp
        commands = [("MAIL", mail.mail_argument, "")]
        commands += [("RCPT", argument, address) for address, argument in mail.recipients]
        # RFC 2920 §3.1: DATA may be pipelined, too. After its 354 only a lone dot cancels the message, and only if no
        # recipient was accepted. With several recipients we must know that before DATA.
        if smtp.pipelining and len(mail.recipients) == 1:
            commands.append(("DATA", b"", ""))
        if smtp.pipelining:
            await self._send_pipelined(commands, answers)
        else:
            await self._send_one_by_one(commands, answers)
        refusal = envelope_verdict(answers)
        if refusal is None and smtp.state is State.ENVELOPE:
            await self._send_one_by_one([("DATA", b"", "")], answers)
            refusal = envelope_verdict(answers)
        if refusal is not None and smtp.state is State.GO_AHEAD:
            await self._cancel_data(answers)
        return refusal

    async def _send_pipelined(self, commands: list[tuple[str, bytes, str]], answers: list[Answered]) -> None:
        conversation = self.conversation
        group = [conversation.encode(verb, argument) for verb, argument, _ in commands]
        await conversation.write(b"".join(group))
        for _, _, address in commands:
            answers.append(await self._answer(address))

    async def _send_one_by_one(self, commands: list[tuple[str, bytes, str]], answers: list[Answered]) -> None:
        """One command per round trip. Stops after a refused sender."""
        for verb, argument, address in commands:
            await self.conversation.write(self.conversation.encode(verb, argument))
            answers.append(await self._answer(address))
            if verb == "MAIL" and answers[-1].ending is not Ending.ACCEPTED:
                break

    async def _answer(self, address: str) -> Answered:
        """The answer to the envelope's next command. Raises ExchangeEnded if no other answer can follow it."""
        exchange = self._smtp.exchange
        reply = await self.conversation.reply()
        ending = classify(exchange, reply)
        if ending in (Ending.CLOSING, Ending.BAD_REPLY):
            raise ExchangeEnded(Ended(exchange=exchange, ending=ending, reply=reply))
        return Answered(exchange, address, reply, ending)

    async def _cancel_data(self, answers: list[Answered]) -> None:
        """Sends the lone dot to a relay that refused the recipient but accepted DATA (RFC 2920 §3.1)."""
        conversation = self.conversation
        accepted = {a.exchange for a in answers if a.ending is Ending.ACCEPTED}
        if Exchange.RCPT in accepted:
            raise conversation.ended(
                Ending.BAD_REPLY
            )  # contradictory: here a dot would send an empty message
        await conversation.write(conversation.encode("LONE DOT"))
        reply = await conversation.reply()
        if classify(Exchange.FINAL, reply) not in (Ending.PERMANENT, Ending.TRANSIENT):
            raise conversation.ended(Ending.BAD_REPLY, reply=reply)

    # Message

    async def _content(self, wire: bytes, may_finish: SendDeadline, patience: trio.CancelScope) -> Ended:
        view, at = memoryview(wire), 0
        while len(wire) - at > _CHUNK_BYTES:
            await self._push(view[at : at + _CHUNK_BYTES], patience)
            at += _CHUNK_BYTES
            if self.conversation.has_something_to_read():
                await self._read_early_reply(patience, None)
        if not may_finish():
            raise ExchangeEnded(Ended(exchange=Exchange.BODY, ending=Ending.CLAIM_SHORT))
        await self._push(self.conversation.encode("DOT", wire[at:] if at else wire), patience)
        exchange, reply = Exchange.FINAL, await self._final_reply(patience)
        return Ended(exchange=exchange, ending=classify(exchange, reply), reply=reply)

    async def _push(self, data: bytes | memoryview, patience: trio.CancelScope) -> None:
        """Writes a part of the message. Raises ExchangeEnded if it was not written completely."""
        stream = self.conversation.stream
        timed_out = False
        try:
            if isinstance(stream, ConversationStream):
                data = data[await stream.send_at_once(data) :]
                if not data:
                    return
            patience.deadline = inf  # each part has a deadline of its own
            with trio.move_on_after(self._settings.timeout_s) as scope:
                await stream.send_all(data)
                return
            timed_out = scope.cancelled_caught
        except trio.BrokenResourceError:
            pass
        if timed_out:
            detail = f"no progress within {self._settings.timeout_s:g} s"
            await self._read_early_reply(patience, Ending.TIMED_OUT, detail)
        await self._read_early_reply(patience, Ending.HUNG_UP)

    async def _read_early_reply(
        self, patience: trio.CancelScope, otherwise: Ending | None, detail: str = ""
    ) -> None:
        """Ends the attempt by the relay's reply in the middle of the message, or without one by `otherwise`."""
        patience.deadline = inf
        smtp = self._smtp
        with trio.move_on_after(_EARLY_REPLY_WITHIN_S):
            try:
                while (reply := smtp.early_reply()) is None:
                    data = await self.conversation.stream.receive_some(READ_BYTES)
                    if not data:
                        otherwise = otherwise or Ending.HUNG_UP
                        break
                    smtp.receive(data)
                else:
                    raise body_ended(reply)
            except NotSmtp:
                otherwise = Ending.BAD_REPLY
            except trio.BrokenResourceError:
                otherwise = otherwise or Ending.HUNG_UP
        if otherwise is not None:
            raise ExchangeEnded(Ended(exchange=Exchange.BODY, ending=otherwise, detail=detail))

    async def _final_reply(self, patience: trio.CancelScope) -> Reply:
        """The reply to the final dot. A cancelled wait continues under a shield for the grace of a stop."""
        conversation, settings = self.conversation, self._settings
        patience.deadline = give_up_s = trio.current_time() + settings.final_timeout_s
        try:
            return await conversation.reply()
        except trio.Cancelled:
            # Not raised again: the outcome has to be recorded. The next checkpoint raises Cancelled anew.
            if patience.cancel_called:
                raise conversation.timed_out(settings.final_timeout_s) from None
        stop_s = trio.current_time() + settings.stop_grace_s
        with trio.CancelScope(deadline=min(stop_s, give_up_s), shield=True):
            return await conversation.reply()
        if stop_s < give_up_s:
            raise conversation.ended(Ending.CUT_OFF)
        raise conversation.timed_out(settings.final_timeout_s)

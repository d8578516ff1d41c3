"""Describes in one line how an attempt ended.

Relays may quote the message that they refuse, and the message may hold a login code. So replies after the message are
compared with it, as rendered and as sent. Every word that occurs there is masked, except for the usual words of replies
(`VOCABULARY`) and the words of the recipients' addresses. A code that a relay changes (backwards, letter by letter) is
not recognised.
"""

import re
from collections.abc import Iterable
from typing import Final, assert_never

from galaxy_mail.providers.provider import Message
from galaxy_mail.providers.smtp.outcomes import Ended, Ending, Exchange
from galaxy_mail.providers.smtp.replies import one_line

MASK: Final = "…"
_COMPARED_MAX_BYTES: Final = 1_048_576  # of the message as sent; attachments come after that
_WORD: Final = re.compile(r"[^\W_]+")
_MASKS: Final = re.compile(rf"{MASK}(?:\W*{MASK})+")

_USUAL_WORDS: Final = """
a accept accepted action address after again all an and answer antispam antivirus any are as at authentication
authorized banned be because been blacklist blacklisted blocked bounce bulk busy by can cannot client command
complaint complete configuration connection contact content contains contain could data database deferred delayed
delivered delivery denied detected disk dkim dmarc dns do does domain due email enough error exceeded exceeds
expired fail failed failure filter for found from full further greylisted has have header headers help host if in
insufficient internal invalid ip is it later limit limited line list listed local long mail mailbox malformed
malware many maximum message mime missing more must no not of on or our out over permanent please policy postmaster
prohibited queue quota rate reached reason received recipient reject rejected rejection relay reputation request
resources retry security seems sender sending server service size slow smtp space spam spf storage suspicious
system temporarily temporary terminated than that the this time timeout to too transaction try unable unavailable
unsolicited until up use user users violation virus was we when will with you your
"""
VOCABULARY: Final = frozenset(_USUAL_WORDS.split())


def describe(ended: Ended, *, message: Message | None, wire: bytes) -> str:
    """One line for people. `wire`: the message as sent; empty if the relay can't have seen any of it."""
    exchange, reply = ended.exchange, ended.reply
    if reply is None:
        return one_line(f"{exchange}: {ended.detail or _ours(ended.ending)}")
    said = reply.text
    if exchange is Exchange.AUTH:
        said = ""  # may quote the user name or the password
    elif exchange in (Exchange.BODY, Exchange.FINAL):
        assert message is not None, "a probe sends none"
        said = mask(said, message=message, wire=wire)
    if ended.detail:
        said = f"{said} ({ended.detail})"
    return one_line(f"{exchange}: {reply.label} {said}")


def mask(text: str, *, message: Message, wire: bytes) -> str:
    """The text with the words masked that the relay may have taken from the message."""
    content = message.content
    written = (content.subject, content.text_body, content.html_body or "")
    # Line ends and quoted-printable's soft breaks are removed, because a reply may quote across them.
    sent = wire[:_COMPARED_MAX_BYTES].decode("utf-8", "replace").replace("=\r\n", "").replace("\r\n", "")
    seen = "\n".join((*written, sent)).casefold()
    joined = "".join(_WORD.findall(seen))  # the code `483 920` may be quoted as `483920`
    known = VOCABULARY | _words(message.envelope.recipients())

    def shown(word: re.Match[str]) -> str:
        folded = word[0].casefold()
        if folded in known:
            return word[0]
        return MASK if folded in seen or (not folded.isalpha() and folded in joined) else word[0]

    return _MASKS.sub(MASK, _WORD.sub(shown, text))


def _words(texts: Iterable[str]) -> frozenset[str]:
    return frozenset(word.casefold() for text in texts for word in _WORD.findall(text))


def _ours(ending: Ending) -> str:
    """What we observed, for an ending without a reply."""
    match ending:
        case Ending.ACCEPTED | Ending.PERMANENT | Ending.TRANSIENT:
            raise AssertionError(f"{ending} has a reply")
        case Ending.CLOSING | Ending.HUNG_UP:
            return "the relay closed the connection"
        case Ending.BAD_REPLY:
            return "the answer is not SMTP"
        case Ending.TIMED_OUT:
            return "no answer in time"
        case Ending.UNRESOLVED:
            return "the relay's host name can't be resolved"
        case Ending.UNREACHABLE:
            return "the relay can't be reached"
        case Ending.NO_RESOURCES:
            return "this host is out of resources"
        case Ending.UNVERIFIED:
            return "the relay's certificate is not trusted"
        case Ending.BROKEN:
            return "the TLS handshake failed"
        case Ending.INJECTED:
            return "data arrived in clear text after the reply to STARTTLS"
        case Ending.NOT_OFFERED:
            return "not offered by the relay"
        case Ending.IN_CLEAR:
            return "the password is not sent over a connection without TLS"
        case Ending.TOO_LARGE:
            return "the message is larger than the relay accepts"
        case Ending.TOO_MANY:
            return "the message has more recipients than the relay accepts"
        case Ending.MALFORMED:
            return "the message can't be encoded as a mail"
        case Ending.CLAIM_SHORT:
            return "the claim would have ended too soon to send the final dot"
        case Ending.CUT_OFF:
            return "the service stopped before the reply came"
        case _:
            assert_never(ending)

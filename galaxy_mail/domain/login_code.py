"""Decodes Auth's REST request for a login code mail."""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from galaxy_mail.domain.acceptance import MailRequest
from galaxy_mail.domain.errors import FieldError
from galaxy_mail.domain.fingerprint import fingerprint
from galaxy_mail.domain.ids import NO_TRACING, Tracing
from galaxy_mail.domain.invalid import InvalidRequest, idempotency_key
from galaxy_mail.domain.json_body import Members, Parse, WrongValue, locale, mail_address, text_value
from galaxy_mail.domain.records import Content, Envelope, Json, Lane, PayloadMode, Source

LOGIN_CODE_TEMPLATE_ID: Final = "auth.login_code"
BODY_MAX_BYTES: Final = 16 * 1024
CODE_MAX_CHARS: Final = 64

# A code has no invisible characters: no controls, formatting or bidirectional marks, white space other than the space,
# private use characters or non-characters. The pattern lists them, because Python's `isprintable` changes with its
# Unicode version, and the contract must not.
CODE_SYNTAX: Final = (
    r"[^\u0000-\u001F\u007F-\u00A0\u00AD\u061C\u1680\u180E\u2000-\u200F\u2028-\u202F\u205F-\u206F\u3000"
    r"\uE000-\uF8FF\uFEFF\uFFF0-\uFFFB\uFFFE\uFFFF"
    "\U000e0000-\U0010ffff]{1,64}"
)
_CODE: Final = re.compile(CODE_SYNTAX)


def decode_login_code(
    idempotency_keys: Sequence[str],
    body: bytes,
    *,
    content_type: str | None,
    delivery_id: str,
    tracing: Tracing = NO_TRACING,
) -> MailRequest:
    """The request. Raises InvalidRequest with every problem.

    `idempotency_keys` holds the values of all headers of this name.
    """
    errors: list[FieldError] = []
    key = ""
    try:
        key = idempotency_key(idempotency_keys)
    except InvalidRequest as invalid:
        errors += invalid.errors
    members = Members.of_body(body, content_type=content_type, max_bytes=BODY_MAX_BYTES, errors=errors)
    texts = {name: members.need(name, parse, "") for name, parse in MEMBERS.items()}
    members.finish()
    return MailRequest(
        delivery_id=delivery_id,
        source=Source.AUTHSESSION,
        lane=Lane.PRIORITY,
        payload_mode=PayloadMode.TEMPLATE,
        idempotency_key=key,
        fingerprint=fingerprint({"source": Source.AUTHSESSION.value, **members.values}),
        content=Content(
            envelope=Envelope(to=(texts["email"],)),
            template_id=LOGIN_CODE_TEMPLATE_ID,
            locale=texts["locale"],
            variables={"code": texts["code"]},
        ),
        request_id=tracing.request_id,
        trace_id=tracing.trace_id,
        traceparent=tracing.traceparent,
    )


def _code(value: Json) -> str:
    code = text_value(value)
    if not _CODE.fullmatch(code):
        raise WrongValue(f"must be 1 to {CODE_MAX_CHARS} printable characters")
    return code


MEMBERS: Final[Mapping[str, Parse[str]]] = {"email": mail_address, "code": _code, "locale": locale}

"""Shows a mail as text: the decoded header, the text part, and the name and size of every other part.

`galaxy-mail dev`, the docs and failed tests use it. It is not in `mime`, because it needs the `email` package, which the
service doesn't load.
"""

import re
from collections.abc import Iterator
from email import message_from_bytes
from email.header import decode_header, make_header
from email.message import Message as Mail

_UNFOLD = re.compile(r"\r?\n(?=[ \t])")


def readable(mail: bytes) -> str:
    """The mail as a mail client would show it. Attachments, and HTML that comes with a text part, take one line each."""
    parsed = message_from_bytes(mail)
    fields = (f"{name}: {decoded(str(value))}" for name, value in parsed.items() if _interesting(name))
    return "\n".join([*fields, "", *_parts(parsed)]).rstrip() + "\n"


def decoded(value: str) -> str:
    """A header field's value, unfolded, with its encoded words decoded."""
    return str(make_header(decode_header(_UNFOLD.sub("", value))))


def _interesting(name: str) -> bool:
    return not name.lower().startswith("content-") and name.lower() != "mime-version"


def _parts(parsed: Mail) -> Iterator[str]:
    leaves = [part for part in parsed.walk() if not part.is_multipart()]
    has_text = any(part.get_content_type() == "text/plain" for part in leaves)
    for at, part in enumerate(leaves):
        data = part.get_payload(decode=True)
        assert isinstance(data, bytes), "leaves have bytes"
        kind = part.get_content_type()
        if (kind == "text/plain" and not part.get_filename()) or (kind == "text/html" and not has_text):
            if at:
                yield ""
            yield data.decode(part.get_content_charset("utf-8"), "replace").replace("\r\n", "\n").rstrip()
            yield ""
        else:
            name = f" {part.get_filename()}" if part.get_filename() else ""
            yield f"[{kind}{name}, {_size(len(data))}]"


def _size(size_bytes: int) -> str:
    return f"{size_bytes} bytes" if size_bytes < 1024 else f"{size_bytes / 1024:.1f} KiB"

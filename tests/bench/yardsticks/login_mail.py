"""The bundled login mail, made as one would without the service: Jinja2 and `EmailMessage`.

What the Celery worker sends, and the ready bytes of the plain sender.
"""

import os
from collections.abc import Mapping
from email.message import EmailMessage
from functools import cache
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATE_DIR: Final = Path(os.environ.get("MAIL_TEMPLATE_DIR") or Path(__file__).parents[3] / "templates")
TEMPLATE_ID: Final = "auth.login_code"
FROM: Final = "Galaxy Mail <mail@galaxy.test>"


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATE_DIR),
        autoescape=lambda name: name is not None and name.endswith("html.tmpl"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(part: str, locale: str, variables: Mapping[str, object]) -> str:
    return _environment().get_template(f"{TEMPLATE_ID}/{locale}/{part}.tmpl").render(variables)


def build(delivery_id: str, to: str, locale: str, variables: Mapping[str, object]) -> EmailMessage:
    """The mail, text and HTML."""
    message = EmailMessage()
    message["From"] = FROM
    message["To"] = to
    message["Subject"] = render("subject", locale, variables).strip()
    message["Message-ID"] = f"<{delivery_id}@galaxy.test>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(render("text", locale, variables))
    message.add_alternative(render("html", locale, variables), subtype="html")
    return message

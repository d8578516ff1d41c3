"""How a render can fail: the five codes, and the refusal that a template meets while it runs."""

from enum import StrEnum

from jinja2 import TemplateRuntimeError

from galaxy_mail.domain.records import Failure


class RenderFailureCode(StrEnum):
    """Why there is no mail to send. All are permanent: the same inputs fail in the same way."""

    TEMPLATE_NOT_FOUND = "template_not_found"
    LOCALE_NOT_FOUND = "locale_not_found"
    MISSING_VARIABLES = "missing_variables"
    RENDER_ERROR = "render_error"
    CONTENT_TOO_LARGE = "content_too_large"


class TemplateRefused(TemplateRuntimeError):
    """A template asked for what the sandbox does not give. The message is made of the template's words, never of values."""

    code = RenderFailureCode.RENDER_ERROR


class TooLarge(TemplateRefused):
    """The template builds more text than a mail may have."""

    code = RenderFailureCode.CONTENT_TOO_LARGE


def failure(code: RenderFailureCode, summary: str) -> Failure:
    return Failure(code=code.value, summary=summary)

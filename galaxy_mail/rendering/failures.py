"""The failure codes of a render, and the exceptions of the sandbox."""

from enum import StrEnum

from jinja2 import TemplateRuntimeError

from galaxy_mail.domain.records import Failure


class RenderFailureCode(StrEnum):
    """Why a mail can't be rendered. All are permanent: the same input fails again."""

    TEMPLATE_NOT_FOUND = "template_not_found"
    LOCALE_NOT_FOUND = "locale_not_found"
    MISSING_VARIABLES = "missing_variables"
    RENDER_ERROR = "render_error"
    CONTENT_TOO_LARGE = "content_too_large"


class TemplateRefused(TemplateRuntimeError):
    """A template did what the sandbox doesn't allow. The message may quote the template, but no values."""

    code = RenderFailureCode.RENDER_ERROR


class TooLarge(TemplateRefused):
    """The template builds more text than the limit allows."""

    code = RenderFailureCode.CONTENT_TOO_LARGE


def failure(code: RenderFailureCode, summary: str) -> Failure:
    return Failure(code=code.value, summary=summary)

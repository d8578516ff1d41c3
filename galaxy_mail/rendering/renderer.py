"""Renders one template in one locale."""

import re
from collections.abc import Mapping
from typing import Any, Final

from galaxy_mail.domain.commands import HEADER_TEXT_SYNTAX, SUBJECT_MAX_CHARS
from galaxy_mail.domain.records import Failure, RenderedContent
from galaxy_mail.rendering.failures import RenderFailureCode, failure
from galaxy_mail.rendering.limits import Meter, RenderLimits
from galaxy_mail.rendering.lint import required_variables
from galaxy_mail.rendering.part import Part, PartFailed

_ONE_LINE: Final = re.compile(HEADER_TEXT_SYNTAX)


class LocalTemplate:
    """The parts of a template in a locale. Immutable; several threads may render it at once."""

    def __init__(self, template_id: str, locale: str, parts: Mapping[str, Part]) -> None:
        self.template_id = template_id
        self.locale = locale
        self.parts = parts
        self.required = required_variables(parts)

    def render(
        self, variables: Mapping[str, Any], limits: RenderLimits, *, fallback: bool
    ) -> RenderedContent | Failure:
        """The content, or why it can't be rendered. `fallback`: the caller asked for another locale."""
        missing = [name for name in self.required if name not in variables]
        if missing:
            names = ", ".join(missing)
            return failure(
                RenderFailureCode.MISSING_VARIABLES, f"{self.template_id}/{self.locale}: missing {names}"
            )
        # Only the required ones: another variable must not replace a global function of all templates.
        given = {name: variables[name] for name in self.required}
        meter = Meter(limits)
        try:
            subject = self.parts["subject"].render(given, meter).strip()
            text = self.parts["text"].render(given, meter)
            html = self.parts["html"].render(given, meter) if "html" in self.parts else None
        except PartFailed as failed:
            return failure(failed.code, failed.summary)
        file = self.parts["subject"].source.file
        if not _ONE_LINE.fullmatch(subject):  # RFC 5322 §2.2: a line break would begin another header field
            return failure(RenderFailureCode.RENDER_ERROR, f"{file}: the subject is not one line")
        if len(subject) > SUBJECT_MAX_CHARS:
            return failure(
                RenderFailureCode.CONTENT_TOO_LARGE,
                f"{file}: the subject has more than {SUBJECT_MAX_CHARS} characters",
            )
        return RenderedContent(
            subject=subject,
            text_body=text,
            html_body=html,
            locale_used=self.locale,
            locale_fallback_used=fallback,
        )

"""Compiles and checks all templates of a folder, and renders mail.

    catalog = Catalog.load(bundled_templates(), limits=RenderLimits())
    catalog.render("auth.login_code", "fr-CA", {"code": "042137"})

The same input gives the same bytes or the same failure on every host.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from msgspec import Struct

from galaxy_mail.domain.locales import BadLocale, fallback_chain
from galaxy_mail.domain.records import Failure, RenderedContent
from galaxy_mail.rendering.catalog_problems import BrokenCatalog, CatalogProblem, Severity
from galaxy_mail.rendering.failures import RenderFailureCode, failure
from galaxy_mail.rendering.limits import RenderLimits
from galaxy_mail.rendering.lint import check_needed, check_template
from galaxy_mail.rendering.part import Part, compile_part, new_environment
from galaxy_mail.rendering.renderer import LocalTemplate
from galaxy_mail.rendering.sources import PARTS, read_sources


class TemplateInfo(Struct, frozen=True, kw_only=True):
    """A template as the API and the command line list it."""

    template_id: str
    locales: tuple[str, ...]
    required_variables: tuple[str, ...]
    parts: tuple[str, ...]  # of any locale


class Catalog:
    """All templates of a folder. Immutable; several threads may use it at once."""

    def __init__(
        self,
        templates: Mapping[str, Mapping[str, LocalTemplate]],
        *,
        limits: RenderLimits,
        warnings: tuple[CatalogProblem, ...] = (),
    ) -> None:
        self._templates = templates
        self._limits = limits
        self.warnings = warnings

    @classmethod
    def load(cls, folder: Path, *, limits: RenderLimits) -> Self:
        """The folder's catalog. Raises BrokenCatalog with all problems if one of them is an error."""
        sources, problems = read_sources(folder)
        environment = new_environment()
        compiled: dict[str, dict[str, dict[str, Part]]] = {}
        for source in sources:
            part, found = compile_part(environment, source)
            problems += found
            if part is not None:
                compiled.setdefault(source.template_id, {}).setdefault(source.locale, {})[source.part] = part
        broken = {problem.file for problem in problems if problem.severity is Severity.ERROR}
        for template_id, locales in compiled.items():
            # Without the parts that did not compile, the comparison would report wrong differences.
            if not any(file == template_id or file.startswith(f"{template_id}/") for file in broken):
                problems += check_template(template_id, locales)
        problems += check_needed(frozenset(source.template_id for source in sources))
        if any(problem.severity is Severity.ERROR for problem in problems):
            raise BrokenCatalog(folder, tuple(sorted(problems)))
        return cls(
            {
                template_id: {
                    locale: LocalTemplate(template_id, locale, parts) for locale, parts in locales.items()
                }
                for template_id, locales in compiled.items()
            },
            limits=limits,
            warnings=tuple(sorted(problems)),
        )

    def render(
        self, template_id: str, locale: str, variables: Mapping[str, Any]
    ) -> RenderedContent | Failure:
        """The mail in the best available locale, or why it can't be rendered. Raises nothing, whatever the variables are."""
        locales = self._templates.get(template_id)
        if locales is None:
            # The name comes from the caller and may contain anything, so it is not repeated.
            return failure(RenderFailureCode.TEMPLATE_NOT_FOUND, "the catalog has no template of this name")
        try:
            chain = fallback_chain(locale)
        except BadLocale as bad:
            return failure(RenderFailureCode.LOCALE_NOT_FOUND, f"{template_id}: {bad}")
        for candidate in chain:
            if candidate in locales:
                return locales[candidate].render(variables, self._limits, fallback=candidate != chain[0])
        return failure(RenderFailureCode.LOCALE_NOT_FOUND, f"{template_id}: none of {', '.join(chain)}")

    def templates(self) -> list[TemplateInfo]:
        """All templates, sorted by name."""
        return [
            TemplateInfo(
                template_id=template_id,
                locales=tuple(sorted(locales)),
                required_variables=next(iter(locales.values())).required,
                parts=tuple(part for part in PARTS if any(part in local.parts for local in locales.values())),
            )
            for template_id, locales in sorted(self._templates.items())
        ]

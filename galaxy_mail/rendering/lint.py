"""Checks the parts and locales of one template against each other."""

from collections.abc import Iterator, Mapping
from typing import Final

from galaxy_mail.domain.locales import DEFAULT_LOCALE
from galaxy_mail.domain.login_code import LOGIN_CODE_TEMPLATE_ID
from galaxy_mail.rendering.catalog_problems import CatalogProblem, error, warning
from galaxy_mail.rendering.part import Part
from galaxy_mail.rendering.sources import part_file

Parts = Mapping[str, Part]  # by the part's name

# Templates that the service itself renders, and the variables that it passes.
GIVEN: Final[Mapping[str, frozenset[str]]] = {LOGIN_CODE_TEMPLATE_ID: frozenset({"code"})}


def required_variables(parts: Parts) -> tuple[str, ...]:
    return tuple(sorted({name for part in parts.values() for name in part.names}))


def check_template(template_id: str, locales: Mapping[str, Parts]) -> Iterator[CatalogProblem]:
    """Differences between locales and between parts, and variables that the service doesn't pass."""
    for locale, parts in locales.items():
        yield from _between_parts(parts)
        yield from _not_given(template_id, parts)
        if locale != DEFAULT_LOCALE and DEFAULT_LOCALE in locales:
            yield from _between_locales(template_id, locale, parts, locales[DEFAULT_LOCALE])


def _not_given(template_id: str, parts: Parts) -> Iterator[CatalogProblem]:
    if template_id in GIVEN:
        for part in parts.values():
            for name, line in part.names.items():
                if name not in GIVEN[template_id]:
                    yield error(
                        part.source.file, line, f"the service passes no variable `{name}` to `{template_id}`"
                    )


def _between_parts(parts: Parts) -> Iterator[CatalogProblem]:
    if "html" not in parts or "text" not in parts:
        return
    text, html = parts["text"], parts["html"]
    for name, line in text.names.items():
        if name not in html.names:
            yield warning(html.source.file, 1, f"`{name}` is not used here, but in text.tmpl:{line}")


def _between_locales(
    template_id: str, locale: str, parts: Parts, reference: Parts
) -> Iterator[CatalogProblem]:
    """Callers pass the same variables for every locale, so all locales must require the same ones."""
    here, there = required_variables(parts), required_variables(reference)
    for part in parts.values():
        for name, line in part.names.items():
            if name not in there:
                yield error(
                    part.source.file, line, f"`{name}` is used here, but not in locale {DEFAULT_LOCALE!r}"
                )
    for name in there:
        if name not in here:
            place = next(
                f"{part.source.file}:{part.names[name]}" for part in reference.values() if name in part.names
            )
            yield error(
                part_file(template_id, locale, "text"), 1, f"`{name}` is not used here, but in {place}"
            )
    if ("html" in parts) != ("html" in reference):
        has, lacks = (locale, DEFAULT_LOCALE) if "html" in parts else (DEFAULT_LOCALE, locale)
        message = f"locale {has!r} has this part, but {lacks!r} does not"
        yield warning(part_file(template_id, locale, "html"), 1, message)


def check_needed(template_ids: frozenset[str]) -> Iterator[CatalogProblem]:
    for template_id in GIVEN:
        if template_id not in template_ids:
            yield warning(
                template_id, 1, "missing: the service sends mail with this template, which would fail"
            )

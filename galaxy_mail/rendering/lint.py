"""What is wrong between the parts and locales of one template."""

from collections.abc import Iterator, Mapping
from typing import Final

from galaxy_mail.domain.locales import DEFAULT_LOCALE
from galaxy_mail.domain.login_code import LOGIN_CODE_TEMPLATE_ID
from galaxy_mail.rendering.catalog_problems import CatalogProblem, error, warning
from galaxy_mail.rendering.part import Part
from galaxy_mail.rendering.sources import part_file

Parts = Mapping[str, Part]  # by the part's name

# Templates that the service itself renders, and all that it gives them.
GIVEN: Final[Mapping[str, frozenset[str]]] = {LOGIN_CODE_TEMPLATE_ID: frozenset({"code"})}


def required_variables(parts: Parts) -> tuple[str, ...]:
    return tuple(sorted({name for part in parts.values() for name in part.names}))


def check_template(template_id: str, locales: Mapping[str, Parts]) -> Iterator[CatalogProblem]:
    """Differences between locales and between parts, and variables that nobody gives."""
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
                        part.source.file, line, f"the service gives `{template_id}` no variable `{name}`"
                    )


def _between_parts(parts: Parts) -> Iterator[CatalogProblem]:
    if "html" not in parts or "text" not in parts:
        return
    text, html = parts["text"], parts["html"]
    for name, line in text.names.items():
        if name not in html.names:
            yield warning(html.source.file, 1, f"`{name}` is not shown here, but by text.tmpl:{line}")


def _between_locales(
    template_id: str, locale: str, parts: Parts, reference: Parts
) -> Iterator[CatalogProblem]:
    """A caller gives the same variables whatever the locale, so every locale needs the same."""
    here, there = required_variables(parts), required_variables(reference)
    for part in parts.values():
        for name, line in part.names.items():
            if name not in there:
                yield error(
                    part.source.file, line, f"`{name}` is used here and not by locale {DEFAULT_LOCALE!r}"
                )
    for name in there:
        if name not in here:
            place = next(
                f"{part.source.file}:{part.names[name]}" for part in reference.values() if name in part.names
            )
            yield error(
                part_file(template_id, locale, "text"), 1, f"`{name}` is not used here, but by {place}"
            )
    if ("html" in parts) != ("html" in reference):
        message = f"locale {DEFAULT_LOCALE!r} has this part and {locale!r} has not"
        if "html" in parts:
            message = f"locale {locale!r} has this part and {DEFAULT_LOCALE!r} has not"
        yield warning(part_file(template_id, locale, "html"), 1, message)


def check_needed(template_ids: frozenset[str]) -> Iterator[CatalogProblem]:
    for template_id in GIVEN:
        if template_id not in template_ids:
            yield warning(template_id, 1, "missing: what the service sends with this template would fail")

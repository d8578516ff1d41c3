"""Reads the files of a template folder: `<template_id>/<locale>/<part>.tmpl`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from msgspec import Struct

from galaxy_mail.domain.ids import TEMPLATE_ID
from galaxy_mail.domain.locales import DEFAULT_LOCALE, BadLocale, parse_locale
from galaxy_mail.rendering.catalog_problems import CatalogProblem, error

PARTS: Final = ("subject", "text", "html")
REQUIRED_PARTS: Final = ("subject", "text")
SOURCE_MAX_BYTES: Final = 512 * 1024
BESIDE_TEMPLATES: Final = frozenset({"README.md"})


class TemplateSource(Struct, frozen=True, kw_only=True):
    """One part of a template in one locale, as its author wrote it."""

    template_id: str
    locale: str
    part: str
    text: str

    @property
    def file(self) -> str:
        return part_file(self.template_id, self.locale, self.part)


def part_file(template_id: str, locale: str, part: str) -> str:
    return f"{template_id}/{locale}/{part}.tmpl"


def read_sources(folder: Path) -> tuple[list[TemplateSource], list[CatalogProblem]]:
    """All sources in order, and the problems of the folder's structure.

    Hidden names are ignored, because a mounted ConfigMap and version control have some. Links are followed.
    """
    problems: list[CatalogProblem] = []
    sources = [
        source
        for template_id in _children(folder, ".", problems, folders=True, beside=BESIDE_TEMPLATES)
        for source in _template(folder / template_id, template_id, problems)
    ]
    if not sources and not problems:
        problems.append(error(".", 1, "contains no templates"))
    return sources, problems


def _template(folder: Path, template_id: str, problems: list[CatalogProblem]) -> Iterator[TemplateSource]:
    if not TEMPLATE_ID.fullmatch(template_id):
        rule = "a template's name must be words of A-Z a-z 0-9 _ - joined by dots, at most 128 characters"
        problems.append(error(template_id, 1, rule))
        return
    locales = _children(folder, template_id, problems, folders=True)
    if DEFAULT_LOCALE not in locales:
        problems.append(
            error(template_id, 1, f"lacks the locale {DEFAULT_LOCALE!r}, the fallback of all others")
        )
    for locale in locales:
        yield from _locale(folder / locale, template_id, locale, problems)


def _locale(
    folder: Path, template_id: str, locale: str, problems: list[CatalogProblem]
) -> Iterator[TemplateSource]:
    place = f"{template_id}/{locale}"
    try:
        spelling = parse_locale(locale)
    except BadLocale as bad:
        problems.append(error(place, 1, str(bad)))
        return
    if spelling != locale:
        problems.append(error(place, 1, f"this locale must be written {spelling!r}"))
        return
    names = _children(folder, place, problems, folders=False)
    for part in PARTS:
        file = part_file(template_id, locale, part)
        if f"{part}.tmpl" in names:
            text = _text(folder / f"{part}.tmpl", file, problems)
            if text is not None:
                yield TemplateSource(template_id=template_id, locale=locale, part=part, text=text)
        elif part in REQUIRED_PARTS:
            problems.append(error(file, 1, "missing"))
    known = {f"{part}.tmpl" for part in PARTS}
    problems += [
        error(f"{place}/{name}", 1, "must be subject.tmpl, text.tmpl or html.tmpl")
        for name in names
        if name not in known
    ]


def _children(
    folder: Path,
    place: str,
    problems: list[CatalogProblem],
    *,
    folders: bool,
    beside: frozenset[str] = frozenset(),
) -> list[str]:
    """The sorted names of a folder's folders or files. Names of the other kind are problems."""
    names: list[str] = []
    try:
        for child in sorted(folder.iterdir()):
            if child.name.startswith(".") or child.name in beside:
                continue
            if child.is_dir() is folders:
                names.append(child.name)
            else:
                file = child.name if place == "." else f"{place}/{child.name}"
                problems.append(error(file, 1, f"must be a {'folder' if folders else 'file'}"))
    except OSError as failed:
        problems.append(error(place, 1, f"cannot be read: {failed.strerror}"))
    return names


def _text(path: Path, file: str, problems: list[CatalogProblem]) -> str | None:
    try:
        with path.open("rb") as stream:
            data = stream.read(SOURCE_MAX_BYTES + 1)
    except OSError as failed:
        problems.append(error(file, 1, f"cannot be read: {failed.strerror}"))
        return None
    if len(data) > SOURCE_MAX_BYTES:
        problems.append(error(file, 1, f"more than {SOURCE_MAX_BYTES} bytes"))
        return None
    try:
        return data.decode("utf-8-sig")  # drops the byte order mark that some editors write
    except UnicodeDecodeError as failed:
        line = data.count(b"\n", 0, failed.start) + 1
        problems.append(error(file, line, "not UTF-8"))
        return None

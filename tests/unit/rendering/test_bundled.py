import re
from pathlib import Path

import pytest

import galaxy_mail
from galaxy_mail.domain.login_code import LOGIN_CODE_TEMPLATE_ID
from galaxy_mail.domain.records import RenderedContent
from galaxy_mail.rendering.bundled import bundled_templates
from galaxy_mail.rendering.catalog import Catalog
from galaxy_mail.rendering.filters import FILTERS
from galaxy_mail.rendering.limits import RenderLimits
from galaxy_mail.rendering.predicates import PREDICATES
from galaxy_mail.rendering.sandbox import FUNCTIONS, OBJECT_METHODS, TEXT_METHODS
from tests.unit.rendering.folders import rendered, write
from tests.unit.rendering.reader import tags_of, words_of
from tests.unit.rendering.write_snapshots import CODE, SNAPSHOTS, snapshots

LOCALES = ("de", "en", "es", "fr", "ru")
CATALOG = Catalog.load(bundled_templates(), limits=RenderLimits())


def login_code(locale: str, code: str = CODE) -> RenderedContent:
    return rendered(CATALOG.render(LOGIN_CODE_TEMPLATE_ID, locale, {"code": code}))


def html(locale: str, code: str = CODE) -> str:
    body = login_code(locale, code).html_body
    assert body is not None
    return body


def source(locale: str, part: str) -> str:
    return (bundled_templates() / LOGIN_CODE_TEMPLATE_ID / locale / f"{part}.tmpl").read_text()


def test_the_bundled_catalog_has_no_problem_and_needs_the_code_alone() -> None:
    (info,) = CATALOG.templates()
    assert (info.template_id, info.locales, info.required_variables) == (
        LOGIN_CODE_TEMPLATE_ID,
        LOCALES,
        ("code",),
    )
    assert info.parts == ("subject", "text", "html")
    assert CATALOG.warnings == ()


def test_every_part_in_every_locale_is_byte_for_byte_its_snapshot() -> None:
    assert {file.name: file.read_bytes() for file in SNAPSHOTS.iterdir()} == snapshots()


@pytest.mark.parametrize("locale", LOCALES)
def test_the_code_is_in_both_bodies_and_never_in_the_subject(locale: str) -> None:
    content = login_code(locale)
    assert CODE not in content.subject
    assert f"\n    {CODE}\n" in content.text_body
    assert words_of(html(locale)).count(CODE) == 1


@pytest.mark.parametrize("locale", LOCALES)
def test_what_a_list_of_mails_shows_ends_before_the_code(locale: str) -> None:
    """A lock screen shows the subject and the first words of the body: the hidden line and blanks fill those."""
    before = words_of(html(locale).split("<body")[1]).split(CODE)[0]
    assert len(re.sub(r"\n", "", before)) > 200


@pytest.mark.parametrize("locale", LOCALES)
def test_the_mail_fetches_nothing_and_links_nowhere(locale: str) -> None:
    body = html(locale)
    assert not re.search(
        r"<(img|link|script|iframe|a|form|object|video|audio|svg)\b|url\(|@import|\bsrc=|href=", body
    )
    namespaces = {"http://www.w3.org/1999/xhtml", "urn:schemas-microsoft-com:office:office"}
    assert set(re.findall(r'"((?:https?|urn|ftp):[^"]*)"', body)) <= namespaces


@pytest.mark.parametrize("locale", LOCALES)
def test_the_mail_names_its_language_and_its_colour_schemes(locale: str) -> None:
    body = html(locale)
    assert f'<html lang="{locale}"' in body
    assert f'lang="{locale}" dir="ltr">' in body
    assert '<meta name="color-scheme" content="light dark">' in body
    assert "@media (prefers-color-scheme: dark)" in body
    assert body.count("<title>") == 1


@pytest.mark.parametrize("locale", LOCALES)
def test_every_table_is_layout_and_marked_so(locale: str) -> None:
    tables = re.findall(r"<table[^>]*>", html(locale))
    assert tables
    assert all('role="presentation"' in table for table in tables)


def test_below_its_words_the_html_is_the_same_in_every_locale() -> None:
    bodies = {source(locale, "html").split("<!DOCTYPE html>")[1] for locale in LOCALES}
    assert len(bodies) == 1
    assert len({tuple(tags_of(html(locale))) for locale in LOCALES}) == 1


@pytest.mark.parametrize("locale", LOCALES)
def test_the_text_says_what_the_html_says(locale: str) -> None:
    def plain(text: str) -> str:
        return re.sub(r"\s+", " ", text)

    shown = plain(words_of(html(locale)))
    for paragraph in login_code(locale).text_body.strip().split("\n\n"):
        assert plain(paragraph.strip()) in shown


@pytest.mark.parametrize("locale", LOCALES)
def test_lines_of_the_text_fit_a_terminal(locale: str) -> None:
    assert max(map(len, login_code(locale).text_body.split("\n"))) <= 76


@pytest.mark.parametrize(
    ("code", "size"),
    [("123456", "38px"), ("ABCD-EFGH-12", "38px"), ("ABCD-EFGH-123", "20px"), ("x" * 64, "20px")],
)
def test_a_long_code_is_set_smaller(code: str, size: str) -> None:
    (styled,) = re.findall(r'<span class="(?:code|token)" style="[^"]*font-size: (\d+px)', html("en", code))
    assert styled == size


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance of #rrggbb."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


ON_CARD, ON_PANEL, ON_PAGE = ("title", "words", "note"), ("code",), ("sender",)


def test_words_stand_out_in_both_colour_schemes() -> None:
    body = html("en")
    dark_rules = body.split("@media (prefers-color-scheme: dark) {")[1].split("[data-ogsc]")[0]

    def light(name: str, property_name: str) -> str:
        style = re.search(
            rf'class="{name}"[^>]*style="[^"]*?(?<![-\w]){property_name}: (#[0-9a-f]{{6}})', body
        )
        assert style, name
        return style[1]

    def dark(name: str, property_name: str) -> str:
        rule = re.search(
            rf"\.{name}\b[^{{}}]*{{[^}}]*?(?<![-\w]){property_name}: (#[0-9a-f]{{6}})", dark_rules
        )
        assert rule, name
        return rule[1]

    for colour in (light, dark):
        for ground, names in (("card", ON_CARD), ("panel", ON_PANEL), ("page", ON_PAGE)):
            for name in names:
                ratio = contrast(colour(name, "color"), colour(ground, "background-color"))
                assert ratio >= 4.5, (colour.__name__, name, ratio)  # WCAG 2.2, 1.4.3 (AA)


def test_the_authors_guide_names_what_there_is() -> None:
    guide = (bundled_templates() / "README.md").read_text()

    def named(start: str, end: str) -> set[str]:
        return set(re.findall(r"`(\w+)`", guide.split(start)[1].split(end)[0]))

    assert named("Filters:", "\n\n") == set(FILTERS)
    assert named("Tests:", "\n\n") == {name for name in PREDICATES if name.isalpha()}
    assert named("objects have", "and strings") == OBJECT_METHODS
    assert named("and strings have", "\n\n") == TEXT_METHODS
    assert named("Of Jinja2's functions only", "\n\n") == set(FUNCTIONS)
    limits = RenderLimits()
    assert f"{limits.output_bytes_max // 2**20} MiB and run {limits.iterations_max:,} iterations" in guide


def test_the_templates_of_a_checkout_lie_beside_the_package() -> None:
    assert bundled_templates() == Path(galaxy_mail.__file__).parent.parent / "templates"


def test_the_templates_of_a_wheel_or_a_frozen_program_lie_in_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        tmp_path,
        {"galaxy_mail/__init__.py": "", "galaxy_mail/templates/README.md": "", "templates/README.md": ""},
    )
    monkeypatch.setattr(galaxy_mail, "__file__", str(tmp_path / "galaxy_mail/__init__.py"))
    assert bundled_templates() == tmp_path / "galaxy_mail" / "templates"

from pathlib import Path

import pytest

from galaxy_mail.domain.records import RenderedContent
from galaxy_mail.rendering.catalog import Catalog, TemplateInfo
from galaxy_mail.rendering.catalog_problems import BrokenCatalog
from galaxy_mail.rendering.limits import RenderLimits
from tests.unit.rendering.folders import errors_of, failed, one, rendered, warnings_of, write

GREETING = {
    "hello/en/subject.tmpl": "Hello {{ name }}\n",
    "hello/en/text.tmpl": "Hello {{ name }}, {{ count }} new.\n",
    "hello/en/html.tmpl": "<p>Hello {{ name }}, {{ count }} new.</p>\n",
    "hello/fr/subject.tmpl": "Bonjour {{ name }}\n",
    "hello/fr/text.tmpl": "Bonjour {{ name }}, {{ count }} de plus.\n",
    "hello/fr/html.tmpl": "<p>Bonjour {{ name }}, {{ count }} de plus.</p>\n",
    "hello/pt-BR/subject.tmpl": "Oi {{ name }}\n",
    "hello/pt-BR/text.tmpl": "Oi {{ name }}, {{ count }}.\n",
    "hello/pt-BR/html.tmpl": "<p>Oi {{ name }}, {{ count }}.</p>\n",
}
ANN = {"name": "Ann", "count": 3}


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog.load(write(tmp_path, GREETING), limits=RenderLimits())


def test_all_parts_are_rendered_in_the_locale_asked_for(catalog: Catalog) -> None:
    assert catalog.render("hello", "fr", ANN) == RenderedContent(
        subject="Bonjour Ann",
        text_body="Bonjour Ann, 3 de plus.\n",
        html_body="<p>Bonjour Ann, 3 de plus.</p>\n",
        locale_used="fr",
        locale_fallback_used=False,
    )


@pytest.mark.parametrize(
    ("asked", "used", "fallback"),
    [
        ("en", "en", False),
        ("EN", "en", False),
        ("fr", "fr", False),
        ("fr-CA", "fr", True),
        ("fr-Latn-CA", "fr", True),
        ("pt-BR", "pt-BR", False),
        ("PT-br", "pt-BR", False),
        ("pt", "en", True),
        ("pt-PT", "en", True),
        ("ja", "en", True),
        ("en-GB", "en", True),
        ("x-ours", "en", True),
    ],
)
def test_the_locale_falls_back_to_its_language_and_then_to_english(
    catalog: Catalog, asked: str, used: str, fallback: bool
) -> None:
    content = rendered(catalog.render("hello", asked, ANN))
    assert (content.locale_used, content.locale_fallback_used) == (used, fallback)


@pytest.mark.parametrize("locale", ["", "french!", "fr_CA", "fr--ca", "a" * 100])
def test_a_locale_that_is_no_language_tag_is_not_found(catalog: Catalog, locale: str) -> None:
    code, summary = failed(catalog.render("hello", locale, ANN))
    assert code == "locale_not_found"
    assert summary.startswith("hello: ")
    assert not locale or locale not in summary


def test_a_template_that_the_catalog_lacks_is_not_found_and_its_name_not_repeated(catalog: Catalog) -> None:
    assert failed(catalog.render("no\r\nsuch", "en", {})) == (
        "template_not_found",
        "the catalog has no template of this name",
    )


def test_all_missing_variables_of_all_parts_are_named_in_order(tmp_path: Path) -> None:
    catalog = one(
        tmp_path, subject="{{ zeta }}", text="{{ beta }}", html="{{ beta }}{{ alpha }}{% if x.y %}{% endif %}"
    )
    assert failed(catalog.render("t", "en", {"beta": 1, "other": 2})) == (
        "missing_variables",
        "t/en: missing alpha, x, zeta",
    )


def test_null_counts_as_given_and_prints_as_nothing(catalog: Catalog) -> None:
    assert rendered(catalog.render("hello", "en", {"name": None, "count": 1})).subject == "Hello"


def test_a_variable_that_nobody_asked_for_changes_nothing(tmp_path: Path) -> None:
    catalog = one(tmp_path, text="{{ name }}{% for i in range(2) %}{{ loop.index }}{% endfor %}")
    variables = {
        "name": "a",
        "range": 1,
        "loop": 1,
        "self": 1,
        "namespace": 1,
        "(iterate)": 1,
        "other": object(),
    }
    assert rendered(catalog.render("t", "en", variables)).text_body == "a12"


def test_the_same_inputs_give_the_same_content_from_another_load(catalog: Catalog, tmp_path: Path) -> None:
    again = Catalog.load(tmp_path, limits=RenderLimits())
    assert (
        catalog.render("hello", "de", ANN)
        == again.render("hello", "de", ANN)
        == catalog.render("hello", "de", ANN)
    )


def test_a_render_leaves_nothing_behind(tmp_path: Path) -> None:
    catalog = one(tmp_path, text="{% set ns = namespace(n=0) %}{% set ns.n = ns.n + x %}{{ ns.n }}")
    assert [rendered(catalog.render("t", "en", {"x": x})).text_body for x in (1, 2, 1)] == ["1", "2", "1"]


def test_a_template_without_html_has_no_html_body(tmp_path: Path) -> None:
    assert rendered(one(tmp_path).render("t", "en", {})).html_body is None


def test_templates_tells_what_a_caller_must_know(tmp_path: Path) -> None:
    write(tmp_path, {**GREETING, "a.plain/en/subject.tmpl": "s", "a.plain/en/text.tmpl": "t"})
    assert Catalog.load(tmp_path, limits=RenderLimits()).templates() == [
        TemplateInfo(
            template_id="a.plain", locales=("en",), required_variables=(), parts=("subject", "text")
        ),
        TemplateInfo(
            template_id="hello",
            locales=("en", "fr", "pt-BR"),
            required_variables=("count", "name"),
            parts=("subject", "text", "html"),
        ),
    ]


@pytest.mark.parametrize("value", ["a\nb", "a\r\nBcc: all@example.org", "a\rb", "a\0b", "a\x0bb", "a\x1fb"])
def test_a_subject_of_more_than_one_line_is_a_render_error(tmp_path: Path, value: str) -> None:
    catalog = one(tmp_path, subject="x {{ value }} y")
    assert failed(catalog.render("t", "en", {"value": value})) == (
        "render_error",
        "t/en/subject.tmpl: the subject is not one line",
    )


@pytest.mark.parametrize(
    ("subject", "line"),
    [
        ("Hi\nyou", 2),
        ("\nHi {{ name }}\n\nand more", 4),
        ("{{ name }}\n{{ name }}", 2),
        ("{# why #}\nHi\n{% if name %}x{% endif %} you", 3),
        ("{% set x = name %}{{ x }}\r\nyou", 2),
    ],
)
def test_a_subject_that_can_only_be_of_more_lines_is_an_error_at_the_second(
    tmp_path: Path, subject: str, line: int
) -> None:
    files = {"a/en/subject.tmpl": subject, "a/en/text.tmpl": "{{ name }}"}
    assert errors_of(tmp_path, files) == [f"a/en/subject.tmpl:{line}: a subject must be one line"]


@pytest.mark.parametrize(
    "subject",
    [
        "{# why #}\n\nHi {{ name }}\n\n{# so #}\n",
        "{% if name %}\nHi\n{% else %}\nYou\n{% endif %}\n",
        "Hi\n{% if not name %}you{% endif %}\n",
    ],
)
def test_a_subject_that_may_well_be_of_one_line_is_none(tmp_path: Path, subject: str) -> None:
    assert rendered(one(tmp_path, subject=subject).render("t", "en", {"name": "Ann"})).subject.startswith(
        "Hi"
    )


def test_a_subject_loses_the_white_space_around_it(tmp_path: Path) -> None:
    assert (
        rendered(
            one(tmp_path, subject="{% if true %}\n  Hi {{ name }}\n{% endif %}\n").render(
                "t", "en", {"name": "A\n"}
            )
        ).subject
        == "Hi A"
    )


def test_a_subject_may_not_be_longer_than_one_that_is_sent_rendered(tmp_path: Path) -> None:
    catalog = one(tmp_path, subject="{{ value }}")
    code, summary = failed(catalog.render("t", "en", {"value": "a" * 10_000}))
    assert code == "content_too_large"
    assert summary.startswith("t/en/subject.tmpl: the subject has more than ")


def test_lines_of_tags_leave_no_blank_lines(tmp_path: Path) -> None:
    catalog = one(tmp_path, text="a\n  {% for x in xs %}\n- {{ x }}\n  {% endfor %}\nb\n")
    assert rendered(catalog.render("t", "en", {"xs": [1, 2]})).text_body == "a\n- 1\n- 2\nb\n"


def test_a_byte_order_mark_reaches_no_reader(tmp_path: Path) -> None:
    assert rendered(one(tmp_path, subject="\ufeffHi").render("t", "en", {})).subject == "Hi"


def test_every_problem_of_every_file_is_reported_with_file_and_line(tmp_path: Path) -> None:
    assert errors_of(
        tmp_path,
        {
            "a/en/subject.tmpl": "fine",
            "a/en/text.tmpl": "line one\n{{ x | uper }}\n{{ y is definde }}\n{% include 'b' %}",
            "a/en/html.tmpl": "<p>\n<a href={{ url }}>",
            "b/en/subject.tmpl": "\n\n{% if %}",
            "b/en/text.tmpl": b"fine\n\xff",
        },
    ) == [
        "a/en/html.tmpl:2: a value in a tag, outside of quotes: put the attribute's value in quotes",
        "a/en/text.tmpl:2: unknown filter 'uper': did you mean 'upper'?",
        "a/en/text.tmpl:3: unknown test 'definde': did you mean 'defined'?",
        "a/en/text.tmpl:4: `include` is not available: a template can't use another one",
        "b/en/subject.tmpl:3: Expected an expression, got 'end of statement block'",
        "b/en/text.tmpl:2: not UTF-8",
    ]


def test_the_message_of_a_broken_catalog_can_be_opened_from_where_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(BrokenCatalog) as caught:
        one(tmp_path, text="\n{{ oops")
    assert f"\n{tmp_path}/t/en/text.tmpl:2: error: " in str(caught.value)


S, T = "s", "t"


@pytest.mark.parametrize(
    ("files", "errors"),
    [
        (
            {"t/fr/subject.tmpl": S, "t/fr/text.tmpl": T},
            ["t:1: lacks the locale 'en', the fallback of all others"],
        ),
        ({"t/en/subject.tmpl": S}, ["t/en/text.tmpl:1: missing"]),
        ({"t/en/text.tmpl": T}, ["t/en/subject.tmpl:1: missing"]),
        ({"t/en/html.tmpl": T}, ["t/en/subject.tmpl:1: missing", "t/en/text.tmpl:1: missing"]),
        (
            {"t/en/subject.tmpl": S, "t/en/text.tmpl": T, "t/en/text.tmpl~": T},
            ["t/en/text.tmpl~:1: must be subject.tmpl, text.tmpl or html.tmpl"],
        ),
        (
            {"t/en/subject.tmpl": S, "t/en/text.tmpl": T, "t/en/images/logo.png": T},
            ["t/en/images:1: must be a file"],
        ),
        (
            {"t/en/subject.tmpl": S, "t/en/text.tmpl": T, "t/notes.txt": T},
            ["t/notes.txt:1: must be a folder"],
        ),
        (
            {"t/en/subject.tmpl": S, "t/en/text.tmpl": T, "stray.tmpl": T},
            ["stray.tmpl:1: must be a folder"],
        ),
        (
            {"t x/en/subject.tmpl": S, "t x/en/text.tmpl": T},
            [
                "t x:1: a template's name must be words of A-Z a-z 0-9 _ - joined by dots, at most 128 characters"
            ],
        ),
        (
            {"t/en/subject.tmpl": S, "t/en/text.tmpl": T, "t/fr_CA/subject.tmpl": S, "t/fr_CA/text.tmpl": T},
            ["t/fr_CA:1: a locale is a BCP 47 language tag such as en or fr-CA"],
        ),
        (
            {"t/en/subject.tmpl": S, "t/en/text.tmpl": T, "t/fr-ca/subject.tmpl": S, "t/fr-ca/text.tmpl": T},
            ["t/fr-ca:1: this locale must be written 'fr-CA'"],
        ),
        (
            {"t/en/subject.tmpl": S, "t/en/text.tmpl": "x" * 600_000},
            ["t/en/text.tmpl:1: more than 524288 bytes"],
        ),
        ({"README.md": "only words"}, [".:1: contains no templates"]),
    ],
)
def test_a_folder_of_another_shape_is_broken(
    tmp_path: Path, files: dict[str, str], errors: list[str]
) -> None:
    assert errors_of(tmp_path, files) == errors


def test_a_folder_that_is_not_there_is_a_broken_catalog(tmp_path: Path) -> None:
    assert (
        errors_of(tmp_path / "absent" / "..", {}) != []
    )  # pathlib keeps the dots, the system does not find it
    with pytest.raises(BrokenCatalog, match="cannot be read: No such file or directory"):
        Catalog.load(tmp_path / "absent", limits=RenderLimits())


def test_hidden_names_and_a_readme_are_passed_over(tmp_path: Path) -> None:
    files = {"README.md": "", ".git/x": "", "..data/x": "", "t/.DS_Store": "", "t/en/.text.tmpl.swp": ""}
    assert one(write(tmp_path, files)).templates()[0].template_id == "t"


def test_a_folder_of_links_is_a_catalog_as_a_mounted_config_map_has_it(tmp_path: Path) -> None:
    write(tmp_path, {f"..2026_11_25/{name}": text for name, text in GREETING.items()})
    (tmp_path / "..data").symlink_to("..2026_11_25")
    (tmp_path / "hello").symlink_to("..data/hello")
    assert [info.template_id for info in Catalog.load(tmp_path, limits=RenderLimits()).templates()] == [
        "hello"
    ]


def test_a_variable_that_only_one_locale_uses_is_an_error_at_its_line(tmp_path: Path) -> None:
    french = {
        **GREETING,
        "hello/fr/text.tmpl": "Bonjour {{ name }}\n\n{{ extra }}",
        "hello/fr/html.tmpl": "{{ name }}",
    }
    assert errors_of(tmp_path, french) == [
        "hello/fr/text.tmpl:1: `count` is not used here, but in hello/en/text.tmpl:1",
        "hello/fr/text.tmpl:3: `extra` is used here, but not in locale 'en'",
    ]


def test_parts_may_differ_and_what_html_readers_miss_is_a_warning(tmp_path: Path) -> None:
    files = {
        "t/en/subject.tmpl": "{{ a }}",
        "t/en/text.tmpl": "{{ a }}\n{{ b }}",
        "t/en/html.tmpl": "{{ a }}{{ c }}",
    }
    assert warnings_of(tmp_path, files) == ["t/en/html.tmpl:1: `b` is not used here, but in text.tmpl:2"]


def test_a_part_that_only_some_locales_have_is_a_warning(tmp_path: Path) -> None:
    plain = {
        name: text
        for name, text in GREETING.items()
        if name not in ("hello/fr/html.tmpl", "hello/en/html.tmpl")
    }
    assert warnings_of(tmp_path / "1", {**plain, "hello/en/html.tmpl": GREETING["hello/en/html.tmpl"]}) == [
        "hello/fr/html.tmpl:1: locale 'en' has this part, but 'fr' does not"
    ]
    assert warnings_of(tmp_path / "2", plain) == [
        "hello/pt-BR/html.tmpl:1: locale 'pt-BR' has this part, but 'en' does not"
    ]


def test_asking_whether_a_required_variable_is_given_is_a_warning(tmp_path: Path) -> None:
    text = "{% if name is defined %}{{ name }}{% endif %}\n{{ nick | default('you') }}{{ nick | default('you', true) }}"
    assert warnings_of(tmp_path, {"t/en/subject.tmpl": S, "t/en/text.tmpl": text}) == [
        "t/en/text.tmpl:1: `name` is required, so it is always defined: pass null and test `name is none`",
        "t/en/text.tmpl:2: `nick` is required, so the default is never used: pass null and write `default(…, true)`",
    ]


def test_members_and_names_of_the_template_may_be_asked_about(tmp_path: Path) -> None:
    text = "{{ user.nick | default('you') }}{% set x = 1 %}{{ x is defined }}{% if user.name is defined %}{% endif %}"
    assert warnings_of(tmp_path, {"t/en/subject.tmpl": S, "t/en/text.tmpl": text}) == []


def test_a_name_that_is_set_in_some_branches_only_is_a_warning(tmp_path: Path) -> None:
    text = "{% if vip %}\n{% set word = 'Dear' %}{% endif %}{{ word }}{% set name = name | default('you', true) %}{{ name }}"
    assert warnings_of(tmp_path, {"t/en/subject.tmpl": S, "t/en/text.tmpl": text}) == [
        "t/en/text.tmpl:2: `word` is not set in every branch, so callers must give it, too: set it before them"
    ]


def test_an_inline_if_without_else_prints_nothing_where_it_is_false(tmp_path: Path) -> None:
    catalog = one(tmp_path, text="{{ 'a' if x }}{{ 'b' if not x }}")
    assert rendered(catalog.render("t", "en", {"x": False})).text_body == "b"


def test_the_login_code_may_use_nothing_but_what_the_service_gives_it(tmp_path: Path) -> None:
    files = {"auth.login_code/en/subject.tmpl": S, "auth.login_code/en/text.tmpl": "{{ code }}\n{{ name }}"}
    assert errors_of(tmp_path, files) == [
        "auth.login_code/en/text.tmpl:2: the service passes no variable `name` to `auth.login_code`"
    ]


def test_a_catalog_without_the_login_code_can_be_used_and_says_so(tmp_path: Path) -> None:
    assert [problem.file for problem in one(tmp_path).warnings] == ["auth.login_code"]

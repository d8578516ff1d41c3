"""Whatever a caller gives: a mail or a classified failure, always the same, and HTML of the template's own tags only."""

import re
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galaxy_mail.domain.records import Failure, RenderedContent
from galaxy_mail.rendering.bundled import bundled_templates
from galaxy_mail.rendering.catalog import Catalog
from galaxy_mail.rendering.catalog_problems import Severity
from galaxy_mail.rendering.failures import RenderFailureCode
from galaxy_mail.rendering.limits import Meter, RenderLimits
from galaxy_mail.rendering.part import PartFailed, compile_part, new_environment
from galaxy_mail.rendering.sources import PARTS, TemplateSource
from tests.unit.rendering.folders import write
from tests.unit.rendering.reader import tags_of, words_of

# Every kind of use that a template may make of a value; any of them may fail for any value.
USES = [
    "{{ v }}",
    "{{ v.name }}{{ v['name'] }}{{ v[0] }}",
    "{% for x in v %}{{ x }}{{ loop.index }}{% else %}none{% endfor %}",
    "{% for k, x in v.items() %}{{ k }}={{ x }}{% endfor %}",
    "{{ v | upper }}{{ v | title }}{{ v | indent }}{{ v | wordwrap(5) }}{{ v | truncate(9) }}{{ v | trim }}",
    "{{ v | join(', ') }}{{ v | sort | list }}{{ v | unique }}{{ v | reverse }}{{ v | first }}{{ v | length }}",
    "{{ v | tojson }}{{ v | urlencode }}{{ v | e }}{{ v | replace('a', 'b') }}{{ v | wordcount }}",
    "{{ v | int }}{{ v | float }}{{ v | round }}{{ v | abs }}{{ v | filesizeformat }}{{ v + 1 }}{{ v * 3 }}{{ v ** 2 }}",
    "{{ v ~ v }}{{ v + v }}{{ v[1:] }}{{ 'a' in v }}{{ v == v }}{{ v < v }}{{ v if v else 'no' }}",
    "{{ '%s' % v }}{{ '%d' % v }}{{ v % 2 }}{{ v | format(1) }}{{ v | default('x', true) }}",
    "{% set y %}<i>{{ v }}</i>{% endset %}{{ y }}{{ y ~ v }}{{ [y, v] | join(v) }}{{ y | replace('a', v) }}",
    "{{ v | groupby('name') }}{{ v | map('upper') | join }}{{ v | map(attribute='name') | join }}{{ v | sum }}{{ v() }}",
    "{{ range(v) | list }}{{ namespace(v).name }}{{ v | batch(2) }}{{ v | dictsort }}{{ v is odd }}{{ v is in(v) }}",
]

texts = st.text(max_size=40) | st.text(st.sampled_from("<>&\"'%{}#\r\n\0aA1 -\u2028\ud800é😀"), max_size=40)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts | st.just("name"), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    files: dict[str, str] = {}
    for number, use in enumerate(USES):
        files |= {
            f"use.{number}/en/subject.tmpl": "subject",
            f"use.{number}/en/text.tmpl": use,
            f"use.{number}/en/html.tmpl": f'<p title="{use if "<i>" not in use else "{{ v }}"}">{use}</p>',
        }
    return Catalog.load(write(tmp_path_factory.mktemp("uses"), files), limits=RenderLimits())


@pytest.mark.parametrize("number", range(len(USES)))
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_value_gives_a_mail_or_a_classified_failure_twice_the_same(
    catalog: Catalog, number: int, data: st.DataObject
) -> None:
    value = data.draw(values)
    outcome = catalog.render(f"use.{number}", "en", {"v": value})
    assert repr(outcome) == repr(
        catalog.render(f"use.{number}", "en", {"v": value})
    )  # nan is unequal to itself
    if isinstance(outcome, Failure):
        assert outcome.code in set(RenderFailureCode)
        assert "\n" not in outcome.summary
        assert " at 0x" not in outcome.summary
        return
    assert outcome.html_body is not None
    assert set(tags_of(outcome.html_body)) <= {"p", "i"}
    outcome.html_body.encode()


@given(secret=st.text(st.characters(categories=["L", "N"]), min_size=12, max_size=20), data=st.data())
@settings(max_examples=100, deadline=None)
def test_no_failure_repeats_a_value(catalog: Catalog, secret: str, data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(USES) - 1))
    shape = data.draw(st.sampled_from([secret, [secret, 1], {secret: secret}, {"name": secret}, [[secret]]]))
    outcome = catalog.render(f"use.{number}", "en", {"v": shape})
    if isinstance(outcome, Failure):
        assert secret not in outcome.summary


@given(code=st.text(st.characters(exclude_categories=["Cs"]), max_size=64))
@settings(max_examples=100, deadline=None)
def test_the_login_code_is_shown_as_it_is_and_changes_no_markup(code: str) -> None:
    outcome = BUNDLED.render("auth.login_code", "en", {"code": code})
    assert isinstance(outcome, RenderedContent)
    assert outcome.html_body is not None
    assert f"\n    {code}\n" in outcome.text_body
    benign = BUNDLED.render("auth.login_code", "en", {"code": "1" * len(code)})
    assert isinstance(benign, RenderedContent)
    assert benign.html_body is not None
    assert tags_of(outcome.html_body) == tags_of(benign.html_body)
    assert code in words_of(outcome.html_body)


@given(variables=st.dictionaries(texts, scalars, max_size=3), template_id=texts, locale=texts)
@settings(max_examples=100, deadline=None)
def test_any_request_gives_a_mail_or_a_classified_failure(
    variables: dict[str, Any], template_id: str, locale: str
) -> None:
    for asked in (template_id, "auth.login_code"):
        outcome = BUNDLED.render(asked, locale, variables)
        assert isinstance(outcome, RenderedContent) or outcome.code in set(RenderFailureCode)


# Bits that templates are made of, in any order: most sources are nonsense, some are templates.
BITS = re.split(
    r"\s+",
    """{{ }} {% %}
{%- -%} {# #} if elif else endif for in endfor set endset macro endmacro call endcall with endwith raw endraw
x y loop caller self range namespace varargs ( ) [ ] { } , : . | ~ + - * ** / // % == < >= and or not is none true 1 0.5
'a' "b" <p> <a href= " ' > text filter block include extends autoescape super upper join map sort defined""",
)
pieces = st.sampled_from(
    [
        *BITS,
        *(
            "{{ x }}",
            "{{ x | ",
            "{% if x %}",
            "{% endif %}",
            "{% for y in x %}",
            "{% endfor %}",
            "{% set x = ",
            " %}",
        ),
        *(
            "{% macro m(y) %}",
            "{% endmacro %}",
            "{{ m(",
            ") }}",
            "{% call m(x) %}",
            "{% endcall %}",
            "loop(x)",
            "\n",
        ),
    ]
)


@given(source=st.lists(pieces, max_size=25).map(" ".join), part=st.sampled_from(PARTS), value=values)
@settings(max_examples=300, deadline=None)
def test_any_source_is_a_part_or_has_problems_with_their_lines(source: str, part: str, value: Any) -> None:
    compiled, problems = compile_part(
        ENVIRONMENT, TemplateSource(template_id="t", locale="en", part=part, text=source)
    )
    assert all(1 <= problem.line <= source.count("\n") + 1 for problem in problems)
    if compiled is None:
        assert any(problem.severity is Severity.ERROR for problem in problems)
        return
    with suppress(PartFailed):  # and nothing else
        compiled.render(dict.fromkeys(compiled.names, value), Meter(RenderLimits()))


ENVIRONMENT = new_environment()
BUNDLED = Catalog.load(bundled_templates(), limits=RenderLimits())


def test_the_reader_sees_a_tag_that_a_value_brings() -> None:
    """Else the properties above could not fail."""
    assert tags_of("<p title='a'><script>") == ["p", "script"]

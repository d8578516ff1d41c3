"""Filters and tests give what stock Jinja2's of the same names give, wherever that is text, a number or a list."""

import re
from pathlib import Path
from typing import Any

import pytest
from jinja2.sandbox import SandboxedEnvironment
from markupsafe import Markup

from galaxy_mail.rendering.filters import FILTERS
from galaxy_mail.rendering.predicates import PREDICATES
from tests.unit.rendering.folders import failure_of, html_of, text_of

PEOPLE = [
    {"name": "Zoe", "age": 31, "city": "Paris"},
    {"name": "ann", "age": 7, "city": "bern"},
    {"name": "Bob", "age": 31, "city": "Bern"},
]
VARIABLES: dict[str, Any] = {
    "text": "the quick brown fox's tail, jumped-over (the) lazy dog",
    "lines": "one\n\n  two\nthree",
    "long": "a supercalifragilisticexpialidocious word, and then some more words to wrap",
    "people": PEOPLE,
    "numbers": [3, 1, 2, 2, 5],
    "words": ["b", "A", "a", "C"],
    "object": {"b": 2, "A": 1, "c": 0},
    "url": "a b/ä?&=+",
    "html": "<b>&\"'",
}

SAME_AS_STOCK = [
    "text | upper",
    "text | lower",
    "text | capitalize",
    "text | title",
    "'o\\'neil mc-donald [x] <y> {z}' | title",
    "'  x ' | trim",
    "'xxaxx' | trim('x')",
    "text | replace('the', 'a')",
    "text | replace('the', 'a', 1)",
    "'abc' | replace('', '-')",
    "text | truncate(20)",
    "text | truncate(20, true)",
    "text | truncate(20, false, '')",
    "text | truncate(53)",
    "text | truncate(53, true, '...', 0)",
    "'x' | center(9)",
    "lines | indent",
    "lines | indent(2, true)",
    "lines | indent(2, true, true)",
    "lines | indent(2, false, true)",
    "long | wordwrap(20, false)",
    "lines | wordwrap(5)",
    "text | wordcount",
    "'%s and %d' | format('a', 2)",
    "'%(x)s' | format(x='a')",
    "'%05.1f|%-4s|%%' % (1.25, 'a')",
    "html | escape",
    "html | e",
    "html | forceescape",
    "url | urlencode",
    "{'q': url, 'n': 1} | urlencode",
    "[('q', 'a b')] | urlencode",
    "words | join",
    "words | join(', ')",
    "people | join(', ', attribute='name')",
    "(0 - 3) | abs",
    "2.567 | round(1)",
    "2.5 | round",
    "21 | round(0 - 1)",
    "2.561 | round(2, 'ceil')",
    "2.567 | round(2, 'floor')",
    "'12' | int",
    "'12.9' | int",
    "'x' | int",
    "'x' | int(7)",
    "'ff' | int(0, 16)",
    "12.9 | int",
    "'1.5' | float",
    "'x' | float",
    "'x' | float(2.5)",
    "1 | filesizeformat",
    "999 | filesizeformat",
    "1000 | filesizeformat",
    "123456789 | filesizeformat",
    "1024 | filesizeformat(true)",
    "123456789 | filesizeformat(true)",
    "(10 ** 27) | filesizeformat",
    "numbers | length",
    "text | count",
    "object | length",
    "people[0].nick | default('none')",
    "'' | default('x')",
    "'' | default('x', true)",
    "numbers | first",
    "numbers | last",
    "text | first",
    "numbers | list | string",
    "'abc' | list | join('-')",
    "object | list | join",
    "object | items | list | length",
    "numbers | reverse | list | string",
    "'abc' | reverse",
    "numbers | sort | string",
    "numbers | sort(reverse=true) | string",
    "words | sort | join",
    "words | sort(case_sensitive=true) | join",
    "people | sort(attribute='name') | join(' ', attribute='name')",
    "people | sort(attribute='age,name') | join(' ', attribute='name')",
    "object | dictsort | join(' ', attribute='0')",
    "object | dictsort(true) | join(' ', attribute='0')",
    "object | dictsort(false, 'value') | join(' ', attribute='0')",
    "object | dictsort(reverse=true) | join(' ', attribute='0')",
    "numbers | unique | list | string",
    "words | unique | join",
    "words | unique(true) | join",
    "people | unique(attribute='age') | join(' ', attribute='name')",
    "numbers | min",
    "numbers | max",
    "words | min",
    "words | max(true)",
    "(people | min(attribute='age')).name",
    "numbers | sum",
    "people | sum(attribute='age')",
    "people | sum(attribute='age', start=100)",
    "numbers | batch(2) | list | string",
    "numbers | batch(2, 0) | list | string",
    "numbers | batch(9, 0) | list | string",
    "numbers | slice(2) | list | string",
    "numbers | slice(3, 0) | list | string",
    "numbers | slice(7, 0) | list | string",
    "people | map(attribute='name') | join",
    "people | map(attribute='nick', default='-') | join",
    "words | map('upper') | join",
    "words | map('replace', 'b', 'x') | join",
    "numbers | select | list | string",
    "numbers | select('odd') | list | string",
    "numbers | reject('odd') | list | string",
    "numbers | select('gt', 2) | list | string",
    "people | selectattr('age', 'equalto', 31) | join(' ', attribute='name')",
    "people | rejectattr('age', 'eq', 31) | join(' ', attribute='name')",
    "people | selectattr('age') | list | length",
    "people | groupby('city') | join(' ', attribute='grouper')",
    "people | groupby('city', case_sensitive=true) | join(' ', attribute='0')",
    "people | groupby('nick', default='-') | join(' ', attribute='grouper')",
    "(people | groupby('city') | first).list | join(' ', attribute='name')",
    "text[4:9] ~ text[::-1] ~ text[-3:]",
    "numbers[1:3] | string",
    "'a' ~ 1 ~ 1.5",
    "'a' * 3 ~ 2 * 'b'",
    "7 // 2 ~ 7 % 2 ~ 7 / 2 ~ 2 ** 3 ~ -7 ~ +7",
    "'fox' in text and 9 not in numbers",
    "1 < 2 < 3",
    "text.split(' ')[1].upper()",
    "object.get('zz', 'no') ~ object.items() | list | length",
]
SAME_VERDICT = [
    "text is defined",
    "people[0].nick is undefined",
    "none is none",
    "true is true",
    "1 is true",
    "false is false",
    "true is boolean",
    "1 is boolean",
    "1 is integer",
    "true is integer",
    "1.0 is integer",
    "1.0 is float",
    "1 is number",
    "'1' is number",
    "text is string",
    "object is mapping",
    "numbers is sequence",
    "1 is sequence",
    "numbers is iterable",
    "1 is iterable",
    "3 is odd",
    "3 is even",
    "9 is divisibleby(3)",
    "9 is divisibleby(2)",
    "'a' is lower",
    "'A' is upper",
    "'a' is upper",
    "2 is in(numbers)",
    "9 is in(numbers)",
    "1 is eq(1)",
    "1 is ne(1)",
    "1 is lt(2)",
    "1 is le(1)",
    "1 is gt(1)",
    "1 is ge(1)",
    "'b' is greaterthan('a')",
    "1 is lessthan(1)",
    "numbers is equalto(numbers)",
]


def stock(expression: str, *, autoescape: bool = False) -> str:
    """What Jinja2 itself says, with lists spelt as JSON has them."""
    environment = SandboxedEnvironment(autoescape=autoescape)
    return environment.from_string("{{ " + expression + " }}").render(**VARIABLES)


def used(expression: str) -> dict[str, Any]:
    return {name: value for name, value in VARIABLES.items() if name in expression}


@pytest.mark.parametrize("expression", SAME_AS_STOCK)
def test_filters_and_operators_give_what_jinja2_gives(tmp_path: Path, expression: str) -> None:
    ours = text_of(tmp_path, "{{ " + expression + " }}", **used(expression))
    assert ours == {"True": "true", "False": "false"}.get(expected := stock(expression), expected)


@pytest.mark.parametrize("expression", SAME_VERDICT)
def test_tests_give_the_verdict_of_jinja2(tmp_path: Path, expression: str) -> None:
    source = "{{ 'yes' if " + expression + " else 'no' }}"
    assert text_of(tmp_path, source, **used(expression)) == ("yes" if stock(expression) == "True" else "no")


def test_every_filter_and_test_is_compared_with_jinja2s_or_known_to_differ() -> None:
    tried = " ".join(SAME_AS_STOCK + SAME_VERDICT)
    untried = {name for name in FILTERS if not re.search(rf"\| {name}\b", tried)}
    assert untried == {"d", "tojson"}
    assert {name for name in PREDICATES if f"is {name}" not in tried and f"'{name}'" not in tried} == {
        *("==", "!=", "<", "<=", ">", ">="),  # reached by `select`
    }


def test_a_word_longer_than_the_line_is_broken_or_has_its_own(tmp_path: Path) -> None:
    source = "{{ x | wordwrap(5) }}|{{ x | wordwrap(5, false) }}"
    assert (
        text_of(tmp_path, source, x="a bcdefghijk lm n\n\no")
        == "a\nbcdef\nghijk\nlm n\n\no|a\nbcdefghijk\nlm n\n\no"
    )


def test_json_is_plain_text_with_sorted_members(tmp_path: Path) -> None:
    assert text_of(tmp_path, "{{ x | tojson }}", x={"b": "<ä>", "a": None}) == '{"a": null, "b": "<ä>"}'
    assert html_of(tmp_path, '<p title="{{ x | tojson }}">', x='<"') == '<p title="&#34;&lt;\\&#34;&#34;">'


@pytest.mark.parametrize(
    "expression",
    [
        "m | upper",
        "m | lower",
        "m | trim",
        "m ~ html",
        "m + html",
        "[m, html] | join(html)",
        "m | replace('b', html)",
    ],
)
def test_markup_stays_markup_and_the_rest_is_escaped_as_jinja2_does(tmp_path: Path, expression: str) -> None:
    environment = SandboxedEnvironment(autoescape=True)
    expected = environment.from_string("{{ " + expression + " }}").render(m=Markup(" <b> "), html='<i>"')
    source = "{% set m %} <b> {% endset %}{{ " + expression + " }}"
    variables = {"html": '<i>"'} if "html" in expression else {}
    assert html_of(tmp_path, source, **variables) == expected


@pytest.mark.parametrize(
    "source",
    [
        "{{ x.missing | METHOD }}".replace("METHOD", name)
        for name in (
            "upper",
            "length",
            "abs",
            "list",
            "sort",
            "sum",
            "join",
            "int",
            "tojson",
            "first",
            "map('upper')",
        )
    ],
)
def test_a_member_that_is_not_there_is_named_by_whatever_uses_it(tmp_path: Path, source: str) -> None:
    assert failure_of(tmp_path, source, x={}) == (
        "render_error",
        "t/en/text.tmpl:1: an object has no member 'missing'",
    )


@pytest.mark.parametrize(
    "source", ["{{ [] | first }}", "{{ [] | last }}", "{{ [] | min }}", "{{ [] | max }}"]
)
def test_an_empty_list_has_no_first_last_least_or_greatest(tmp_path: Path, source: str) -> None:
    code, summary = failure_of(tmp_path, source)
    assert code == "render_error"
    assert "an empty list has no " in summary


@pytest.mark.parametrize(
    "source",
    [
        "{{ 1 | list }}",
        "{{ none | sort }}",
        "{{ 1 | length }}",
        "{{ 'a' | abs }}",
        "{{ [1] | dictsort }}",
        "{{ [1] | items }}",
        "{{ [1] | batch(0) }}",
        "{{ [1] | slice(0) }}",
        "{{ [1] | slice('2') }}",
        "{{ 'x' | wordwrap(0) }}",
        "{{ 'x' | center(none) }}",
        "{{ 2 | round(0, 'up') }}",
        "{{ [1] | map }}",
        "{{ [1] | map(attribute='a', other=1) }}",
        "{{ [1] | map(attribute=[1]) | list }}",
        "{{ ['a'] | sum }}",
        "{{ '%s %(a)s' | format('a', a=1) }}",
        "{{ '%s' % [[1]] }}",
        "{{ {'a': 1} - 1 }}",
        "{{ [1] * 1.5 }}",
        "{{ {} * 2 }}",
    ],
)
def test_what_does_not_fit_is_a_render_error(tmp_path: Path, source: str) -> None:
    assert failure_of(tmp_path, source)[0] == "render_error"

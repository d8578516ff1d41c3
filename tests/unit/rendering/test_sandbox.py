import sys
from pathlib import Path

import pytest

from galaxy_mail.rendering.catalog import Catalog
from galaxy_mail.rendering.limits import RenderLimits
from tests.unit.rendering.folders import errors_of, failed, failure_of, html_of, one, rendered, text_of

SECRET = "SECRET-042137"

MEMBERS_OUT_OF_REACH = [
    "{{ ''.__class__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ x.__init__ }}",
    "{{ x['__class__'] }}",
    "{{ [].__len__() }}",
    "{{ [].append(1) }}",
    "{{ x.update({}) }}",
    "{{ x.pop('a') }}",
    "{{ (1).real }}",
    "{{ none.x }}",
    "{{ range.__globals__ }}",
    "{{ range.call }}",
    "{{ namespace.call }}",
    "{% macro m() %}{% endmacro %}{{ m.__call__ }}",
    "{% macro m() %}{% endmacro %}{{ m._func }}",
    "{% macro m() %}{% endmacro %}{{ m.name }}",
    "{% for i in [1] %}{{ loop.__class__ }}{% endfor %}",
    "{% for i in [1] %}{{ loop._iterator }}{% endfor %}",
    "{% set n = namespace(a=1) %}{{ n.__class__ }}",
    "{% set n = namespace(a=1) %}{{ n._Namespace__attrs }}",
    "{{ ''.format(1) }}",
    "{{ ''.format_map(x) }}",
    "{{ ''.join(['a']) }}",
    "{{ ''.encode() }}",
    "{{ 'a'.ljust(1000000000) }}",
    "{{ x.items.__self__ }}",
    "{{ [x] | map(attribute='__class__') | list }}",
    "{{ [x] | sort(attribute='__class__') }}",
    "{{ [x] | groupby('__class__') }}",
    "{{ [x, x] | sum(attribute='__class__') }}",
    "{% for k, v in [''] | groupby('__class__') %}{{ k }}{% endfor %}",
]


@pytest.mark.parametrize("source", MEMBERS_OUT_OF_REACH)
def test_pythons_attributes_are_out_of_reach(tmp_path: Path, source: str) -> None:
    code, summary = failure_of(tmp_path, source, **({"x": {"a": 1}} if "x" in source else {}))
    assert code == "render_error"
    assert summary.startswith("t/en/text.tmpl:1: ")
    assert "object at 0x" not in summary


@pytest.mark.parametrize(
    "source",
    [
        "{% include 'x' %}",
        "{% import 'x' as x %}",
        "{% from 'x' import y %}",
        "{% extends 'x' %}",
        "{% block a %}{% endblock %}",
        "{% autoescape false %}{{ x }}{% endautoescape %}",
        "{% filter upper %}{% endfilter %}",
        "{% set a | default(x, true) %}{% endset %}",
        "{% call x.y() %}{% endcall %}",
        "{{ self }}",
        "{{ x | safe }}",
        "{{ x | attr('y') }}",
        "{{ x | random }}",
        "{{ x | xmlattr }}",
        "{{ x | striptags }}",
        "{{ x is callable }}",
        "{{ x is filter }}",
        "{{ x is sameas none }}",
        "{% if x %}{{ x | safe }}{% endif %}",
        "{% macro m() %}{{ x | safe }}{% endmacro %}",
        "{% do x %}",
        "{% break %}",
        "{% trans %}a{% endtrans %}",
        "{% debug %}",
    ],
)
def test_what_is_not_in_the_language_breaks_the_catalog_at_its_line(tmp_path: Path, source: str) -> None:
    (error,) = errors_of(tmp_path, {"t/en/subject.tmpl": "s", "t/en/text.tmpl": "\n" + source})
    assert error.startswith("t/en/text.tmpl:2: ")


@pytest.mark.parametrize(
    "name", ["lipsum", "cycler", "joiner", "dict", "open", "__builtins__", "environment", "context"]
)
def test_no_global_is_given_but_range_and_namespace(tmp_path: Path, name: str) -> None:
    catalog = one(tmp_path, text="{{ " + name + " }}")
    assert failed(catalog.render("t", "en", {})) == ("missing_variables", f"t/en: missing {name}")


def test_a_member_of_an_object_comes_before_a_method_of_the_same_name(tmp_path: Path) -> None:
    assert text_of(tmp_path, "{{ order.items }} {{ order.get }}", order={"items": 3, "get": "x"}) == "3 x"


def test_objects_and_texts_have_their_harmless_methods(tmp_path: Path) -> None:
    source = "{% for k, v in o.items() %}{{ k }}={{ v }};{% endfor %}{{ o.get('b', 'no') }} {{ s.split('@')[0].upper() }}"
    assert text_of(tmp_path, source, o={"a": 1}, s="ann@example.org") == "a=1;no ANN"


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        ("a", "a"),
        (None, ""),
        (True, "true"),
        (False, "false"),
        (3, "3"),
        (1.5, "1.5"),
        (["a", None, True, {"b": 1}], '["a", null, true, {"b": 1}]'),
        ({"ä": [1]}, '{"ä": [1]}'),
    ],
)
def test_a_value_prints_as_its_json_but_text_bare_and_null_as_nothing(
    tmp_path: Path, value: object, printed: str
) -> None:
    assert text_of(tmp_path, "{{ x }}|{{ x ~ '' }}|{{ x | string }}|{{ [x] | join }}", x=value) == "|".join(
        [printed] * 4
    )


@pytest.mark.parametrize(
    "source",
    [
        "{{ range }}",
        "{{ range(3) }}",
        "{{ x.items }}",
        "{{ [x.items] }}",
        "{{ namespace(a=1) }}",
        "{% macro m() %}{% endmacro %}{{ m }}",
        "{% macro m() %}{% endmacro %}{{ m ~ '' }}",
        "{% for i in [1] %}{{ loop }}{% endfor %}",
        "{{ [range] | join }}",
        "{{ [range] | tojson }}",
        "{{ {'a': x.keys} }}",
        "{% set n = namespace() %}{% set n.me = [n] %}{{ n.me }}",
        "{{ (0 - 8) ** 0.5 }}",
    ],
)
def test_what_is_no_value_is_not_printed_so_no_address_is(tmp_path: Path, source: str) -> None:
    code, _ = failure_of(tmp_path, source, **({"x": {}} if "x." in source else {}))
    assert code == "render_error"


@pytest.mark.parametrize(
    ("source", "summary"),
    [
        ("{{ x.y }}", "an object has no member 'y'"),
        ("{{ x.y.z }}", "an object has no member 'y'"),
        ("{{ x[secret] }}", "an object has no such element"),
        ("{{ secret.y }}", "a text has no member 'y'"),
        ("{{ secret + 1 }}", "a value of the wrong type"),
        ("{{ secret - 1 }}", "values of types that '-' does not support"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ secret() }}", "only macros and functions can be called"),
        ("{{ range(secret) }}", "a value of the wrong type"),
        ("{{ secret | round }}", "a value that is not a number"),
        ("{{ [1, secret] | sort }}", "a value of the wrong type"),
        ("{{ x | dictsort(by=secret) }}", "dictsort sorts by key or value"),
        ("{{ [1] | map(secret) }}", "map with an unknown filter"),
        ("{{ [1] | select(secret) }}", "selection by an unknown test"),
        ("{{ secret % 1 }}", "a value of the wrong type"),
        ("{{ '%y' % secret }}", "an unknown format"),
        ("{{ '%d' % secret }}", "a value of the wrong type"),
        ("{{ '%(a)s' % x }}", "an element that does not exist"),
        ("{% for a, b in [secret] %}{% endfor %}", "an invalid value"),
        ("{% macro m(a) %}{{ a }}{% endmacro %}{{ m() }}", "parameter 'a' was not provided"),
        ("{% macro m(a) %}{% endmacro %}{{ m(**{secret: 1}) }}", "a value of the wrong type"),
        ("{{ secret | truncate(1) }}", "truncate to fewer characters than its end mark has"),
        ("{{ x < secret }}", "a value of the wrong type"),
    ],
)
def test_a_failure_names_place_and_reason_and_no_value(tmp_path: Path, source: str, summary: str) -> None:
    outcome = one(tmp_path, text="first line\n" + source).render(
        "t", "en", {"x": {}, "secret": SECRET, "y": 1}
    )
    assert failed(outcome) == ("render_error", f"t/en/text.tmpl:2: {summary}")


def test_the_line_of_a_failure_is_where_it_happened_and_not_where_it_was_called(tmp_path: Path) -> None:
    source = "{% macro m(x) %}\n\n{{ x.y }}\n{% endmacro %}\n\n{{ m({}) }}"
    assert failure_of(tmp_path, source)[1] == "t/en/text.tmpl:3: an object has no member 'y'"


HTML_ATTACKS = [
    "{{ v }}",
    "{{ [v] }}",
    "{{ {'a': v} }}",
    "{{ v ~ v }}",
    "{{ v + v }}",
    "{{ '%s' % v }}",
    "{{ '%(v)s' % {'v': v} }}",
    "{{ v | upper }}{{ v | title }}{{ v | trim }}{{ v | indent }}{{ v | wordwrap(3) }}{{ v | truncate(8, true) }}",
    "{{ [v, v] | join(v) }}",
    "{{ v | tojson }}",
    "{{ v | default('x') }}",
    "{{ v | replace('s', v) }}",
    "{{ v | e }}",
    "{{ v | forceescape }}",
    "{{ v | reverse }}",
    "{{ v[0:5] }}",
    "{{ [v] | first }}{{ [v] | last }}{{ [v] | max }}",
    "{{ v | list }}",
    "{% set block %}<i>{{ v }}</i>{% endset %}{{ block }}{{ block | upper }}{{ block ~ v }}{{ [block, v] | join(v) }}",
    "{% set block %}{{ v }}{% endset %}{{ block | replace('&lt;', v) }}{{ block | replace('lt', v) }}{{ block % 1 }}",
    "{% set block %}%s{% endset %}{{ block % v }}{{ block | format(v) }}{{ block | replace('%s', v) }}",
    "{% set block %}{{ v }}{% endset %}{{ block | truncate(9, true, v[:3]) }}{{ block | center(99) }}{{ block + v }}",
    "{% macro m(x) %}{{ x }}{{ caller() if caller is defined }}{% endmacro %}{{ m(v) }}{% call m(v) %}{{ v }}{% endcall %}",
    "{% for x in [v] recursive %}{{ x }}{% endfor %}",
    "{% with x = v %}{{ x }}{% endwith %}",
    "{% for k, x in {'a': v} | dictsort %}{{ x }}{% endfor %}",
    "{{ [v] | map('upper') | join }}{{ [[v]] | map('first') | join }}{{ [v] | batch(3, v) }}{{ [v] | slice(2, v) }}",
    "{{ none | default(v, true) }}{{ namespace(x=v).x }}{{ {'x': v}.get('x') }}{{ {}.get('x', v) }}",
    "{% for x in [v, v] %}{{ loop.cycle(v) }}{{ loop.previtem | default(v) }}{% endfor %}",
    "{{ v.upper() }}{{ v.split('i')[0] }}{{ v.partition('s') }}{{ v.title() }}",
]


@pytest.mark.parametrize("source", HTML_ATTACKS)
def test_no_path_leads_a_variable_into_html_unescaped(tmp_path: Path, source: str) -> None:
    value = "<script a=\"1\" b='2'>&%"
    if "block % 1" in source:
        value = "<script a=\"1\" b='2'>&%d"
    html = html_of(tmp_path, source, v=value)
    for tag in ("<i>", "</i>", "<I>", "</I>"):  # the template's own
        html = html.replace(tag, "")
    assert not set(html) & set("<>\"'"), html


def test_text_parts_are_not_escaped(tmp_path: Path) -> None:
    assert text_of(tmp_path, "{{ v }}", v="<&>") == "<&>"


@pytest.mark.parametrize(
    "html",
    [
        "<a href={{ x }}>",
        "<a href={{ x }}/b>",
        "<a href=/b/{{ x }}>",
        '<a class="b" href={{ x }}>',
        "<a {{ x }}>",
        "<p {% if y %}class={{ x }}{% endif %}>",
        "<p title='\"' lang={{ x }}>",
        "<script>{{ x }}</script>",
        "<style>p { color: {{ x }} }</style>",
        "<STYLE media=all>\n{{ x }}",
        '<a href="{{ x }}" {% for i in [1] %}{{ x }}{% endfor %}>',
    ],
)
def test_a_value_where_escaping_does_not_help_breaks_the_catalog(tmp_path: Path, html: str) -> None:
    files = {"t/en/subject.tmpl": "s", "t/en/text.tmpl": "t", "t/en/html.tmpl": html}
    errors = errors_of(tmp_path, files)
    assert errors
    assert all(error.startswith("t/en/html.tmpl:") for error in errors)


@pytest.mark.parametrize(
    "html",
    [
        '<a href="{{ x }}">{{ x }}</a>',
        "<a href='/b/{{ x }}?c={{ x }}'>",
        "<p>a = {{ x }}</p>",
        "1 < 2 = {{ x }}",
        '<p {% if x %}class="odd"{% endif %}>{{ x }}',
        "<style>p { color: red }</style><p>{{ x }}",
        "<script></script>{{ x }}",
        '<p title="a > b {{ x }}">',
        "<!-- a={{ x }} -->",
    ],
)
def test_quoted_attributes_and_text_are_no_problem(tmp_path: Path, html: str) -> None:
    assert html_of(tmp_path, html, x="v")


TOO_MUCH_WORK = [
    "{% for i in range(10001) %}{% endfor %}",
    "{% for i in range(10 ** 30) %}{% endfor %}",
    "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
    "{% for i in range(9999) if false %}{% endfor %}{% for i in range(9999) if false %}{% endfor %}",
    "{% for i in 'x' * 20000 %}{% endfor %}",
    "{% for i in [1] * 20000 %}{% endfor %}",
    "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(40) }}",
    "{% macro m() %}{{ caller() }}{% call m() %}{{ caller() }}{% endcall %}{% endmacro %}{% call m() %}{% endcall %}",
    "{{ [1] * 10 ** 9 }}",
    "{{ 10 ** 10 ** 10 ** 10 ** 10 }}",
    "{{ 2 ** 100000 }}",
    "{{ 2 ** -100000 }}",
    "{{ (2 ** 3000) * (2 ** 3000) }}",
    "{{ 1.5 ** 100000 }}",
    "{{ 1 | round(-1000000000) }}",
    "{{ 1 | round(1000000000, 'ceil') }}",
    "{{ 'f' * 100000 | int(0, 16) }}{{ ('f' * 100000) | int(0, 16) }}",
    "{{ 'x' | center(1000000000) }}",
    "{{ 'x' | indent(1000000000, true) }}",
    "{{ 'x' | wordwrap(-1) }}",
    "{{ [1] | batch(1000000000, 0) }}",
    "{{ [1] | slice(1000000000, 0) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%.1000000000f' % 1.5 }}",
    "{{ '%*d' % (1000000000, 1) }}",
    "{{ '%(a(b)c)1000000000d' % {'a(b)c': 1} }}",
    "{{ '%1000000000d' | format(1) }}",
    "{{ '%r' % 'x' }}",
    "{{ [[], [1]] | sum(start=[]) }}",
    "{% set a = [1] %}" + "{% set a = [a, a] %}" * 60 + "{{ a }}",
    "{% set a = [1] %}" + "{% set a = [a, a] %}" * 60 + "{{ a == [a] }}",
    "{% set a = [1] %}" + "{% set a = [a, a] %}" * 60 + "{{ a in [a] }}",
    "{% set a = [1] %}" + "{% set a = [a, a] %}" * 60 + "{{ [a, a] | sort }}",
    "{% set a = [1] %}" + "{% set a = [a, a] %}" * 60 + "{{ a is eq(a) }}",
    "{% set a = [1] %}" + "{% set a = [a] %}" * 300 + "{{ a }}",
    "{% set a = {'k': 1} %}" + "{% set a = {'k': a, 'l': a} %}" * 60 + "{{ a | tojson }}",
    "{% for i in range(9999) %}{% set x = [1] * 9999 %}{% endfor %}",
    "{% set b = [1] * 9999 %}{% for i in range(9999) %}{% set x = b[:] %}{% endfor %}",
    "{% set b = [1] * 9999 %}{% for i in range(9999) %}{% set x = b | list %}{% endfor %}",
    "{% set b = [1] * 9999 %}{% for i in range(9999) %}{% set x = 2 in b %}{% endfor %}",
    "{% set b = [1] * 9999 %}{% for i in range(9999) %}{% if b is eq([]) %}{% endif %}{% endfor %}",
    "{% set b = [1] * 9999 %}{% for i in range(9999) %}{% set x = b == b %}{% endfor %}",
    "{% set b = [1] * 9999 %}{% for i in range(9999) %}{% set x = b | map('default') %}{% endfor %}",
    "{% set b = [1] * 9999 %}{% for i in range(9999) %}{% set x = b | select('odd') %}{% endfor %}",
    "{% macro m() %}{{ varargs[0] }}{% endmacro %}{% set b = [1] * 9999 %}{% for i in b %}{{ m(*b) }}{% endfor %}",
    "{{ 'x' | trim('y' * 1000) }}",
    "{{ 'x'.strip('y' * 1000) }}",
]


@pytest.mark.parametrize("source", TOO_MUCH_WORK)
def test_too_much_work_ends_as_a_render_error(tmp_path: Path, source: str) -> None:
    assert failure_of(tmp_path, source)[0] == "render_error"


TOO_MUCH_TEXT = [
    "{{ 'a' * 1000000000 }}",
    "{{ 1000000000 * 'a' }}",
    "{% for i in range(200) %}{{ 'a' * 10000 }}{% endfor %}",
    "{% set a = 'x' * 1000 %}" + "{% set a = a ~ a %}" * 40,
    "{% set a = 'x' * 1000 %}" + "{% set a = a + a %}" * 40,
    "{% set a = 'x' * 1000 %}" + "{% set a %}{{ a }}{{ a }}{% endset %}" * 40,
    "{% set a = 'x' * 1000 %}" + "{% set a = [a, a] | join(a) %}" * 40,
    "{% set a = 'x' * 1000 %}" + "{% set a = a | replace('x', a) %}" * 10,
    "{% set a = 'x' * 1000 %}" + "{% set a = '%s%s' % (a, a) %}" * 40,
    "{% set a = '%(a)s' * 100000 %}{{ a % {'a': 'x' * 100000} }}",
    "{% set a = 'x\n' * 100000 %}{{ a | indent(1000) }}",
    "{% set a = 'x' * 100000 %}{% for i in range(9999) %}{% set b = a | upper %}{% endfor %}",
    "{% set a = 'x' * 100000 %}{% for i in range(9999) %}{% set b = a.upper() %}{% endfor %}",
    "{% set a = 'x' * 100000 %}{% for i in range(9999) %}{% set b = a[1:] %}{% endfor %}",
    "{% set a = 'x' * 100000 %}{% for i in range(9999) %}{% set b = 'y' in a %}{% endfor %}",
    "{% set a = 'x' * 100000 %}{% for i in range(9999) %}{% set b = a == a ~ '' %}{% endfor %}",
    "{% set a = 'x' * 100000 %}{% for i in range(9999) %}{% set b = a is lower %}{% endfor %}",
    "{% set a = 'x' * 100000 %}{% for i in range(9999) %}{% if loop.changed(a) %}{% endif %}{% endfor %}",
    "{% set a = 'x' * 100000 %}{% set s %}{% for i in range(9999) %}{{ a }}{% endfor %}{% endset %}",
    "{% set s %}{% for i in range(9999) %}" + "x" * 10_000 + "{% endfor %}{% endset %}",
    "{% macro m() %}"
    + "x" * 10_000
    + "{% endmacro %}{% set s %}{% for i in range(4999) %}{{ m() }}{% endfor %}{% endset %}",
    "{% set d = {'a': 'x' * 100000} %}{% for i in range(9999) %}{% set b = d | tojson %}{% endfor %}",
    "{% set n = 7 ** 1300 %}{% for i in range(9999) %}{% set b %}{{ n }}{{ n }}{{ n }}{% endset %}{% endfor %}",
]


@pytest.mark.parametrize("source", TOO_MUCH_TEXT)
def test_too_much_text_ends_as_content_too_large(tmp_path: Path, source: str) -> None:
    code, summary = failure_of(tmp_path, source)
    assert code == "content_too_large"
    assert summary.endswith(": more than 1048576 bytes")


@pytest.mark.parametrize("source", ["{{ a | replace('<', b) }}", "{{ a | e ~ b ~ b ~ b }}"])
def test_escaping_counts(tmp_path: Path, source: str) -> None:
    html = "{% set a %}{{ '<' * 200000 }}{% endset %}{% set b = '\"' * 1000000 %}" + source
    assert failed(one(tmp_path, html=html).render("t", "en", {}))[0] == "content_too_large"


def test_a_large_list_of_a_caller_is_counted_like_one_of_the_template(tmp_path: Path) -> None:
    catalog = one(tmp_path, text="{% for x in xs %}{{ x }}{% endfor %}")
    assert rendered(catalog.render("t", "en", {"xs": [1] * 10_000})).text_body == "1" * 10_000
    assert failed(catalog.render("t", "en", {"xs": [1] * 10_001})) == (
        "render_error",
        "t/en/text.tmpl:1: more than 10000 iterations",
    )


def test_deep_values_of_a_caller_end_alike_however_deep_the_call(tmp_path: Path) -> None:
    deep: list[object] = []
    for _ in range(5_000):
        deep = [deep]
    catalog = one(tmp_path, text="{{ x }}")

    def from_depth(depth: int) -> tuple[str, str]:
        return from_depth(depth - 1) if depth else failed(catalog.render("t", "en", {"x": deep}))

    expected = ("render_error", "t/en/text.tmpl:1: lists or objects nested deeper than 100")
    assert from_depth(0) == from_depth(sys.getrecursionlimit() // 2) == expected


def test_the_limits_are_exact_and_shared_by_the_parts(tmp_path: Path) -> None:
    text, html = "{% for i in range(4) %}{{ 'é' }}{% endfor %}", "{% for i in range(6) %}b{% endfor %}"
    enough = RenderLimits(output_bytes_max=1 + 8 + 6, iterations_max=10)
    assert one(tmp_path, subject="s", text=text, html=html, limits=enough).render("t", "en", {}) == rendered(
        one(tmp_path, subject="s", text=text, html=html).render("t", "en", {})
    )
    fewer = RenderLimits(output_bytes_max=15, iterations_max=9)
    assert failed(one(tmp_path, subject="s", text=text, html=html, limits=fewer).render("t", "en", {})) == (
        "render_error",
        "t/en/html.tmpl:1: more than 9 iterations",
    )
    smaller = RenderLimits(output_bytes_max=14, iterations_max=10)
    assert failed(one(tmp_path, subject="s", text=text, html=html, limits=smaller).render("t", "en", {}))[
        0
    ] == ("content_too_large")


@pytest.mark.parametrize("count", [60, 1_000, 10_000])
@pytest.mark.parametrize(
    ("opening", "middle", "closing"),
    [
        ("{{ ", "[", "1"),
        ("{{ ", "not ", "x }}"),
        ("{{ x", ".y", " }}"),
        ("{{ x", " | upper", " }}"),
        ("{{ 1", " + 1", " }}"),
        ("", "{% if x %}", ""),
        ("", "{% for y in x %}", ""),
        ("", "{% macro m() %}", ""),
    ],
)
def test_sources_nested_without_end_break_the_catalog_and_nothing_else(
    tmp_path: Path, opening: str, middle: str, closing: str, count: int
) -> None:
    ends = {
        "[": "]" * count + " }}",
        "{% if x %}": "{% endif %}" * count,
        "{% for y in x %}": "{% endfor %}" * count,
    }
    ends["{% macro m() %}"] = "{% endmacro %}" * count
    source = opening + middle * count + closing + ends.get(middle, "")
    assert errors_of(tmp_path, {"t/en/subject.tmpl": "s", "t/en/text.tmpl": source}) == [
        "t/en/text.tmpl:1: nested too deep"
    ]


def test_a_loop_pays_for_the_size_of_its_body(tmp_path: Path) -> None:
    body = "{% if x.a.b == 1 and x.a.b != 2 %}{{ x.a.b + 1 }}{% endif %}"
    variables = {"x": {"a": {"b": 1}}}
    source = "{% for i in range(9999) %}BODY{% endfor %}"
    assert text_of(tmp_path / "8", source.replace("BODY", body * 8), **variables) == "2" * 8 * 9999
    assert failure_of(tmp_path / "16", source.replace("BODY", body * 16), **variables) == (
        "render_error",
        "t/en/text.tmpl:1: too much work for one mail",
    )


def test_catalogs_do_not_share_what_they_count(tmp_path: Path) -> None:
    catalog: Catalog = one(tmp_path, text="{% for i in range(9000) %}{% endfor %}ok")
    assert [rendered(catalog.render("t", "en", {})).text_body for _ in range(3)] == ["ok"] * 3

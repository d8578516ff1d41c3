import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from galaxy_mail.cli import main
from tests.unit.rendering.folders import write

GOOD = {
    "auth.login_code/en/subject.tmpl": "Your code",
    "auth.login_code/en/text.tmpl": "{{ code }}\n",
    "news/en/subject.tmpl": "News for {{ name }}",
    "news/en/text.tmpl": "{% for item in items %}\n* {{ item.title }}\n{% endfor %}\n",
    "news/en/html.tmpl": "<ul>{% for item in items %}<li>{{ item.title }}</li>{% endfor %}</ul>\n",
}
BROKEN = {**GOOD, "news/en/text.tmpl": "{{ items }}\n{{ name | uper }}"}
NEWS = {"name": "Ann", "items": [{"title": "A & B"}]}


def run(*arguments: str | Path, given: str | None = None, env: dict[str, str] | None = None) -> Result:
    return CliRunner(env={"MAIL_TEMPLATE_DIR": None, **(env or {})}).invoke(
        main, ["templates", *map(str, arguments)], input=given
    )


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write(tmp_path / "templates", GOOD)


def test_list_shows_every_template_and_what_it_needs(good: Path) -> None:
    result = run("list", "--dir", good)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "TEMPLATE         LOCALES  REQUIRED VARIABLES  PARTS",
        "auth.login_code  en       code                subject text",
        "news             en       items name          subject text html",
    ]


def test_list_for_machines_has_the_shape_of_the_api(good: Path) -> None:
    assert json.loads(run("list", "--dir", good, "--json").stdout)["items"][1] == {
        "template_id": "news",
        "locales": ["en"],
        "required_variables": ["items", "name"],
        "parts": ["subject", "text", "html"],
    }


def test_without_a_folder_the_bundled_templates_are_meant() -> None:
    assert "auth.login_code  de en es fr ru" in run("list").stdout


def test_the_folder_comes_from_the_services_own_variable(good: Path) -> None:
    assert "news" in run("list", env={"MAIL_TEMPLATE_DIR": str(good)}).stdout
    assert "news" not in run("list", env={"MAIL_TEMPLATE_DIR": ""}).stdout


@pytest.mark.parametrize("command", [("list",), ("preview", "news")])
def test_a_broken_catalog_is_reported_with_file_and_line_and_exit_status_1(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    result = run(*command, "--dir", write(tmp_path, BROKEN))
    assert result.exit_code == 1
    assert result.stdout == ""
    assert (
        f"{tmp_path}/news/en/text.tmpl:2: error: unknown filter 'uper': did you mean 'upper'?"
        in result.stderr
    )
    assert "Traceback" not in result.stderr


def test_lint_of_a_good_folder_says_so(good: Path) -> None:
    result = run("lint", "--dir", good)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "2 templates, no errors\n", "")


def test_lint_prints_one_line_a_problem_and_fails(tmp_path: Path) -> None:
    result = run("lint", "--dir", write(tmp_path, {**BROKEN, "news/en/logo.png": ""}))
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        f"{tmp_path}/news/en/logo.png:1: error: must be subject.tmpl, text.tmpl or html.tmpl",
        f"{tmp_path}/news/en/text.tmpl:2: error: unknown filter 'uper': did you mean 'upper'?",
    ]


def test_lint_for_machines_has_every_problem(tmp_path: Path) -> None:
    result = run("lint", "--json", "--dir", write(tmp_path, BROKEN))
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {
        "folder": str(tmp_path),
        "problems": [
            {
                "file": "news/en/text.tmpl",
                "line": 2,
                "severity": "error",
                "message": "unknown filter 'uper': did you mean 'upper'?",
            }
        ],
    }


def test_warnings_fail_only_where_that_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path, {**GOOD, "news/en/subject.tmpl": "{{ name }}{% if name is defined %}!{% endif %}"})
    assert run("lint", "--dir", tmp_path).exit_code == 0
    strict = run("lint", "--dir", tmp_path, "--strict")
    assert strict.exit_code == 1
    assert f"{tmp_path}/news/en/subject.tmpl:1: warning: " in strict.stdout


def test_lint_of_a_folder_that_is_not_there_fails(tmp_path: Path) -> None:
    result = run("lint", "--dir", tmp_path / "absent")
    assert result.exit_code == 1
    assert f"{tmp_path}/absent:1: error: cannot be read: No such file or directory" in result.stdout


def test_preview_shows_the_mail_and_where_its_html_is(good: Path) -> None:
    result = run(
        "preview", "news", "--dir", good, "--locale", "fr-CA", "--variables", "-", given=json.dumps(NEWS)
    )
    assert result.exit_code == 0
    assert result.stdout == "Locale:  en  (a fallback)\nSubject: News for Ann\n\n* A & B\n"
    assert result.stderr == "\nHTML: 28 bytes; print it with --part html\n"


def test_preview_prints_one_part_alone(good: Path, tmp_path: Path) -> None:
    file = tmp_path / "variables.json"
    file.write_text(json.dumps(NEWS))
    result = run("preview", "news", "--dir", good, "--variables", file, "--var", "name=Zoe", "--part", "html")
    assert result.stdout == "<ul><li>A &amp; B</li></ul>\n"


def test_a_variable_of_the_command_line_wins_over_the_files(good: Path) -> None:
    arguments = (
        "preview",
        "news",
        "--dir",
        good,
        "--variables",
        "-",
        "--var",
        "name=Zoe=1",
        "--part",
        "subject",
    )
    assert run(*arguments, given=json.dumps(NEWS)).stdout == "News for Zoe=1\n"


def test_preview_for_machines_has_the_shape_of_the_api(good: Path) -> None:
    result = run("preview", "auth.login_code", "--dir", good, "--var", "code=1", "--json")
    assert json.loads(result.stdout) == {
        "locale_used": "en",
        "locale_fallback_used": False,
        "subject": "Your code",
        "text_body": "1\n",
        "html_body": None,
    }


def test_preview_fails_as_the_render_would(good: Path) -> None:
    result = run("preview", "news", "--dir", good)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "missing_variables: news/en: missing items, name\n"
    machines = run("preview", "nothing", "--dir", good, "--json")
    assert machines.exit_code == 1
    assert json.loads(machines.stdout)["code"] == "template_not_found"


def test_preview_of_a_part_that_is_not_there_fails(good: Path) -> None:
    result = run("preview", "auth.login_code", "--dir", good, "--var", "code=1", "--part", "html")
    assert (result.exit_code, result.stdout) == (1, "")


@pytest.mark.parametrize("text", ["[1]", "{", '{"a": 1, "a": 2}', "\udc80"])
def test_variables_are_as_strict_as_a_commands(good: Path, tmp_path: Path, text: str) -> None:
    file = tmp_path / "variables.json"
    file.write_bytes(text.encode(errors="surrogateescape"))
    result = run("preview", "news", "--dir", good, "--variables", file)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"galaxy-mail: {file}: ")


@pytest.mark.parametrize("text", ["name", "=x"])
def test_a_variable_needs_a_name_and_a_value(good: Path, text: str) -> None:
    assert run("preview", "news", "--dir", good, "--var", text).exit_code == 2

"""The check that `make check` runs, and that it would notice."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs import from_code
from tests.docs.check import ACCEPTANCE, CHECKLIST, orphans, problems, runbook_references
from tests.docs.pages import REPOSITORY, Page, pages

DOCS = REPOSITORY / "docs"


def test_the_documentation_says_what_is_there() -> None:
    assert problems(pages()) == []
    assert list(orphans(pages())) == []
    assert list(runbook_references()) == []


def test_the_command_says_so_by_its_exit_status() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.docs.check"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("See [there](nowhere.md).", "docs/page.md:1: nowhere.md leads nowhere"),
        (
            "See\n[a word](vocabulary.md#no-such).",
            "docs/page.md:2: docs/vocabulary.md has no heading #no-such",
        ),
        ("# One\n\n[two](#two)", "docs/page.md:3: docs/page.md has no heading #two"),
        ("`galaxy-mail sned`", "docs/page.md:1: galaxy-mail has no command sned"),
        (
            "```sh\ngalaxy-mail deliveries lost\n```",
            "docs/page.md:2: galaxy-mail deliveries has no command lost",
        ),
        ("`galaxy-mail serve --fast`", "docs/page.md:1: galaxy-mail serve has no option --fast"),
        (
            "```console\n$ MAIL_LOG_LEVEL=info galaxy-mail dev \\\n    --twice\n```",
            "docs/page.md:2: galaxy-mail dev has no option --twice",
        ),
        (
            "`galaxy-mail check-config now`",
            "docs/page.md:1: galaxy-mail check-config takes no argument, and now is given",
        ),
        ("`make coffee`", "docs/page.md:1: make has no target coffee"),
        ("`python -m tests.nothing`", "docs/page.md:1: there is no module tests.nothing"),
        ("Set MAIL_SMTP_HOST.", "docs/page.md:1: there is no variable MAIL_SMTP_HOST"),
        ("Set `MAIL_FAX_*`.", "docs/page.md:1: no variable starts so: MAIL_FAX_*"),
        ("`galaxy_mail_sent_total`", "docs/page.md:1: there is no metric galaxy_mail_sent_total"),
        ("`mail:queue`", "docs/page.md:1: the catalog has no key mail:queue"),
        ("`GET /api/v1/internal/mails`", "docs/page.md:1: there is no route GET /api/v1/internal/mails"),
        (
            "`DELETE /api/v1/internal/deliveries`",
            "docs/page.md:1: there is no route DELETE /api/v1/internal/deliveries",
        ),
        ("`galaxy_mail/domain/mail.py`", "docs/page.md:1: there is no galaxy_mail/domain/mail.py"),
        (
            "`tests/docs/test_docs.py::test_nothing`",
            "docs/page.md:1: tests/docs/test_docs.py has no test_nothing",
        ),
        ('```json\n{"event":"mail_lost"}\n```', "docs/page.md:2: nothing logs the event mail_lost"),
        ("<!-- generated: weather -->\n<!-- /generated -->\n", "docs/page.md: nobody generates weather"),
        (
            "<!-- generated: metrics -->\nnone\n<!-- /generated -->\n",
            "docs/page.md: metrics is not what the code says; run python -m tests.docs.check --write",
        ),
        (
            "<!-- lists: dead-letter-reasons -->\n| r |\n| - |\n| `crash_loop` |\n",
            "docs/page.md:2: dead-letter-reasons: retries_exhausted is missing",
        ),
        (
            "<!-- lists: dead-letter-reasons -->\n| r |\n| - |\n| `crash_loop` |\n| `retries_exhausted` |\n| `boredom` |\n",
            "docs/page.md:2: dead-letter-reasons: the code has no boredom",
        ),
        (
            "<!-- lists: dead-letter-reasons -->\n|r|\n|-|\n|`crash_loop`|\n|`retries_exhausted`|\n|`crash_loop`|\n",
            "docs/page.md:2: dead-letter-reasons: crash_loop comes twice",
        ),
        (
            "<!-- lists: colours -->\n| c |\n| - |\n| `red` |\n",
            "docs/page.md:2: colours: nobody knows what it must list",
        ),
    ],
)
def test_what_is_not_there_is_noticed(text: str, complaint: str) -> None:
    assert problems([Page(DOCS / "page.md", text)]) == [complaint]


@pytest.mark.parametrize(
    "text",
    [
        "[docs](README.md#documentation), [here](#here)\n\n## Here",
        "`galaxy-mail deliveries list --status sent --limit 3`",
        "```console\n$ galaxy-mail publish commands.jsonl\n1795610571410-0  notify.4711\n```",
        "```\ngalaxy-mail is a name here\n```\n`galaxy-mail`",
        '`make bench ARGS=--quick`, `make bench ARGS="--only scaling"`',
        "`MAIL_SMTP_*`, MAIL_SMTP_PASSWORD_FILE",
        '`galaxy_mail_claims`, `galaxy_mail_intake_seconds_bucket{le="1"}`',
        "`mail:idx:status:sent`, `mail:attempt_schedule:priority`",
        "`POST /api/v1/internal/deliveries/{delivery_id}/resend`, `http://127.0.0.1:8080/api/v1/internal/deliveries/a.1`",
        '```json\n{"event":"stopped"}\n```',
    ],
)
def test_what_is_there_passes(text: str) -> None:
    assert problems([Page(DOCS / "page.md", text)]) == []


def _without_marker(name: str) -> Callable[[str], str]:
    return lambda text: text.replace(f": {name} -->", f": no-{name} -->")


@pytest.mark.parametrize(
    ("page", "name"),
    [("states.md", "delivery-states"), ("configuration.md", "configuration"), ("redis.md", "scripts")],
)
def test_a_page_may_not_lose_what_is_generated_in_it(page: str, name: str) -> None:
    text = _without_marker(name)((DOCS / page).read_text())
    assert f"docs/{page}: the generated part {name} is missing" in problems([Page(DOCS / page, text)])


def test_a_page_may_not_lose_a_table_that_must_be_complete() -> None:
    text = _without_marker("keys")((DOCS / "redis.md").read_text())
    assert "docs/redis.md: the table keys is missing" in problems([Page(DOCS / "redis.md", text)])


def test_a_page_that_no_page_leads_to_is_noticed() -> None:
    found = Page(DOCS / "found.md", "[itself](#found)\n")
    lost = Page(DOCS / "lost.md", "[found](found.md)\n")
    assert list(orphans([found, lost])) == ["docs/lost.md: no page leads here"]


def test_every_requirement_has_a_test_and_none_is_left_out() -> None:
    rows = "".join(
        f"| {line} | `tests/docs/test_docs.py::test_anchors_are_those_of_github` |\n"
        for line in CHECKLIST[1:]
    )
    text = f"| it must hold that | shown by |\n| --- | --- |\n| it flies | a look |\n{rows}"
    assert problems([Page(REPOSITORY / ACCEPTANCE, text)]) == [
        f"{ACCEPTANCE}:3: no test shows that it flies",
        f"{ACCEPTANCE}: nothing shows that {CHECKLIST[0]}",
    ]


def test_writing_puts_the_generated_parts_in_and_leaves_the_rest() -> None:
    page = Page(DOCS / "page.md", "before\n<!-- generated: scripts -->\nold\n<!-- /generated -->\nafter\n")
    text = page.written_anew(dict(from_code.generated()))
    assert text.startswith("before\n<!-- generated: scripts -->\n\n| script |")
    assert text.endswith("<!-- /generated -->\nafter\n")
    assert problems([Page(page.path, text)]) == []


def test_anchors_are_those_of_github() -> None:
    page = Page(
        Path("page.md"),
        "# The store's epoch\n## Full disk or memory\n## `fsync`, a [link](x)\n## Same\n## Same\n",
    )
    assert page.anchors == {"the-stores-epoch", "full-disk-or-memory", "fsync-a-link", "same", "same-1"}


def test_every_script_is_in_the_table() -> None:
    names = {path.stem for path in (REPOSITORY / "galaxy_mail" / "storage" / "operations").glob("*.lua")}
    table = from_code.generated()["scripts"]
    assert names == {line.split("`")[1] for line in table.splitlines() if line.startswith("| `")}

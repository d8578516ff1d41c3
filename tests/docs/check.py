"""`python -m tests.docs.check`: does the documentation say what is there, and do names and texts use plain words?

With `--write` it first makes the generated parts of the pages anew: drawings of the state machines, tables of settings,
metrics, scripts and SMTP outcomes.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from tests.docs import commands, from_code, words
from tests.docs.pages import REPOSITORY, Page, code_spans, pages

RUNBOOK: Final = REPOSITORY / "docs" / "runbook.md"
ACCEPTANCE: Final = "docs/acceptance.md"
# The final acceptance checklist of the service's plan, each line of which must have its test.
CHECKLIST: Final = (
    "the process starts with Redis and stub provider config",
    "auth REST intake works with explicit idempotency",
    "async generic stream intake works with duplicate suppression",
    "template rendering and locale fallback are deterministic",
    "SMTP and stub providers both work through the same port",
    "retries and dead-letter flow operate after restarts",
    "operator reads and resend clone work",
    "metrics, logs, and traces cover the main failure modes",
    "repository documentation is aligned with the final service model",
)
# What pages must have, and where: without it somebody would look in vain.
REQUIRED_PARTS: Final = {
    "docs/configuration.md": {"configuration"},
    "docs/states.md": {"delivery-states", "attempt-states"},
    "docs/smtp.md": {"smtp-outcomes"},
    "docs/observability.md": {"metrics"},
    "docs/redis.md": {"scripts"},
}
REQUIRED_TABLES: Final = {
    "docs/states.md": {"delivery-moves", "attempt-moves", "lifecycle-codes", "dead-letter-reasons"},
    "docs/redis.md": {"keys", "answers"},
    "docs/notification.md": {"malformed-codes"},
    "docs/templates.md": {"render-codes"},
    "docs/smtp.md": {"stub-codes"},
    "docs/auth.md": {"problem-codes"},
    "docs/observability.md": {"log-events"},
}

_VARIABLE: Final = re.compile(r"\bMAIL_[A-Z0-9_]*[A-Z0-9](?:_\*|\*)?")
_METRIC: Final = re.compile(r"\bgalaxy_mail_[a-z_]+[a-z](?![a-z_]|\.py)")
_KEY: Final = re.compile(r"(?<![\w`./-])mail:[a-z_]+(?::[a-z_]+)?(?::)?")
_ROUTE: Final = re.compile(r"(?:\b(GET|PUT|POST|DELETE) )?(?:https?://[\w.:\[\]-]+)?(/api/v1/[^\s`'\"?|)]*)")
_PATH: Final = re.compile(r"(?:galaxy_mail|tests|docs|templates|deploy|packaging)/[\w./-]*[\w/]")
_EVENT: Final = re.compile(r'"event":"(\w+)"|\bevent `(\w+)`')


def problems(documents: Sequence[Page]) -> list[str]:
    """All that is wrong with these pages."""
    known = {page.path.resolve(): page for page in documents}
    found: list[str] = []
    for page in documents:
        found += _links(page, known)
        found += commands.problems(page)
        found += _generated(page)
        found += _tables(page)
        found += _names(page)
        if page.name == ACCEPTANCE:
            found += _untested(page)
    return found


def orphans(documents: Sequence[Page]) -> Iterator[str]:
    """Pages that no other page leads to: nobody would find them. The README is where readers begin."""
    led_to = {
        (page.path.parent / unquote(link.target).partition("#")[0]).resolve()
        for page in documents
        for link in page.links
        if not link.target.startswith("#")
    }
    for page in documents:
        if page.path.resolve() not in led_to and page.name != "README.md":
            yield f"{page.name}: no page leads here"


def _links(page: Page, known: dict[Path, Page]) -> Iterator[str]:
    for link in page.links:
        where = f"{page.name}:{link.line}"
        if re.match(r"[a-z][a-z0-9+.-]*:", link.target):
            continue  # of another site: not looked at, for a check must not hang on it
        path, _, anchor = unquote(link.target).partition("#")
        target = (page.path.parent / path).resolve() if path else page.path.resolve()
        if target != page.path.resolve() and not target.exists():
            yield f"{where}: {link.target} leads nowhere"
        elif anchor and target.suffix == ".md":
            other = page if target == page.path.resolve() else known.get(target) or Page(target)
            if anchor not in other.anchors:
                yield f"{where}: {other.name} has no heading #{anchor}"


def _generated(page: Page) -> Iterator[str]:
    made = from_code.generated()
    for name in sorted(REQUIRED_PARTS.get(page.name, set()) - page.generated.keys()):
        yield f"{page.name}: the generated part {name} is missing"
    for name, body in page.generated.items():
        if name not in made:
            yield f"{page.name}: nobody generates {name}"
        elif body != made[name]:
            yield f"{page.name}: {name} is not what the code says; run python -m tests.docs.check --write"


def _tables(page: Page) -> Iterator[str]:
    sets = from_code.listed()
    names = [table.name for table in page.tables]
    for name in sorted(REQUIRED_TABLES.get(page.name, set()) - set(names)):
        yield f"{page.name}: the table {name} is missing"
    for table in page.tables:
        where = f"{page.name}:{table.line}: {table.name}"
        if table.name not in sets:
            yield f"{where}: nobody knows what it must list"
            continue
        rows = [_named(table.name, row) for row in table.rows]
        for name in sorted(sets[table.name] - set(rows)):
            yield f"{where}: {name} is missing"
        for name in sorted(set(rows) - sets[table.name]):
            yield f"{where}: the code has no {name}"
        yield from (f"{where}: {name} comes twice" for name in sorted({n for n in rows if rows.count(n) > 1}))


def _named(table: str, row: tuple[str, ...]) -> str:
    """What a row is about: the first code span; of a key, up to its first variable part; of a move, both ends."""
    if table.endswith("-moves"):
        return " ".join(code_spans(row[0]) + code_spans(row[1]))
    name = next(iter(code_spans(row[0])), row[0])
    return name.partition("<")[0] if table == "keys" else name


def _names(page: Page) -> Iterator[str]:
    yield from _unknown_variables(page)
    for fragment in page.code:
        where = f"{page.name}:{fragment.line}"
        for name in _METRIC.findall(fragment.text):
            if name not in from_code.metric_names():
                yield f"{where}: there is no metric {name}"
        for key in _KEY.findall(fragment.text):
            if not any(key.startswith(name) or name.startswith(key) for name in from_code.catalog()):
                yield f"{where}: the catalog has no key {key}"
        for method, path in _ROUTE.findall(fragment.text):
            if not _is_route(method, path):
                yield f"{where}: there is no route {method} {path}".replace("  ", " ")
        for pair in _EVENT.findall(fragment.text):
            if not from_code.log_events() & set(pair):
                yield f"{where}: nothing logs the event {''.join(pair)}"
    for span in page.spans:
        path, _, test = span.text.partition("::")
        if not _PATH.fullmatch(path):
            continue
        if not (REPOSITORY / path).exists():
            yield f"{page.name}:{span.line}: there is no {path}"
        elif test and f"def {test}(" not in (REPOSITORY / path).read_text(encoding="utf-8"):
            yield f"{page.name}:{span.line}: {path} has no {test}"


def _unknown_variables(page: Page) -> Iterator[str]:
    known = from_code.variables()
    for line, text in enumerate(page.text.splitlines(), start=1):
        for name in _VARIABLE.findall(text):
            if name.endswith("*"):
                if not any(one.startswith(name.rstrip("*")) for one in known):
                    yield f"{page.name}:{line}: no variable starts so: {name}"
            elif name not in known:
                yield f"{page.name}:{line}: there is no variable {name}"


def _untested(page: Page) -> Iterator[str]:
    """Requirements without a test; that the tests exist is looked at like every path that a page names."""
    shown: set[str] = set()
    for line, text in enumerate(page.text.splitlines(), start=1):
        if not text.startswith("| ") or text.startswith(("| ---", "| it must hold that |")):
            continue
        requirement, _, tests = text.strip("| ").partition(" | ")
        if "::test_" in tests:
            shown.add(requirement)
        else:
            yield f"{page.name}:{line}: no test shows that {requirement}"
    for requirement in CHECKLIST:
        if requirement not in shown:
            yield f"{page.name}: nothing shows that {requirement}"


@cache
def _is_route(method: str, path: str) -> bool:
    for known_method, template in from_code.routes():
        pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template))
        if method in ("", known_method) and re.fullmatch(pattern, path.rstrip("/.,;")):
            return True
    return path.rstrip("/") in {"/api/v1/internal", "/api/v1"}


def runbook_references() -> Iterator[str]:
    """Alerts and dashboards name sections of the runbook."""
    anchors = Page(RUNBOOK).anchors
    for path in sorted((REPOSITORY / "deploy").rglob("*")):
        if path.suffix in {".yaml", ".yml", ".json"}:
            for anchor in re.findall(r"runbook\.md#([\w-]+)", path.read_text(encoding="utf-8")):
                if anchor not in anchors:
                    yield f"{path.relative_to(REPOSITORY)}: docs/runbook.md has no heading #{anchor}"


def write() -> None:
    """Makes the generated parts anew."""
    for page in pages():
        text = page.written_anew(dict(from_code.generated()))
        if text != page.text:
            page.path.write_text(text, encoding="utf-8")


def main() -> int:
    if sys.argv[1:] == ["--write"]:
        write()
    documents = pages()
    found = [*problems(documents), *orphans(documents), *runbook_references(), *words.problems()]
    for problem in found:
        print(problem, file=sys.stderr)
    print(f"docs: {len(found)} problems" if found else f"docs: {len(documents)} pages say what is there")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

"""Template folders for tests."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from galaxy_mail.domain.records import Failure, RenderedContent
from galaxy_mail.rendering.catalog import Catalog
from galaxy_mail.rendering.catalog_problems import BrokenCatalog, Severity
from galaxy_mail.rendering.limits import RenderLimits


def write(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def one(
    folder: Path,
    *,
    text: str = "text",
    html: str | None = None,
    subject: str = "subject",
    limits: RenderLimits | None = None,
) -> Catalog:
    """A catalog of one template, `t`, in English."""
    files = {"t/en/subject.tmpl": subject, "t/en/text.tmpl": text}
    if html is not None:
        files["t/en/html.tmpl"] = html
    return Catalog.load(write(folder, files), limits=limits or RenderLimits())


def rendered(outcome: RenderedContent | Failure) -> RenderedContent:
    assert isinstance(outcome, RenderedContent), str(outcome)[:1000]
    return outcome


def failed(outcome: RenderedContent | Failure) -> tuple[str, str]:
    assert isinstance(outcome, Failure), str(outcome)[:1000]
    return outcome.code, outcome.summary


def text_of(folder: Path, source: str, **variables: Any) -> str:
    return rendered(one(folder, text=source).render("t", "en", variables)).text_body


def html_of(folder: Path, source: str, **variables: Any) -> str:
    html = rendered(one(folder, html=source).render("t", "en", variables)).html_body
    assert html is not None
    return html


def failure_of(folder: Path, source: str, **variables: Any) -> tuple[str, str]:
    return failed(one(folder, text=source).render("t", "en", variables))


def errors_of(folder: Path, files: Mapping[str, str | bytes]) -> list[str]:
    """What keeps the folder from being a catalog, as `file:line: message`."""
    with pytest.raises(BrokenCatalog) as caught:
        Catalog.load(write(folder, files), limits=RenderLimits())
    return [
        f"{problem.file}:{problem.line}: {problem.message}"
        for problem in caught.value.problems
        if problem.severity is Severity.ERROR
    ]


def warnings_of(folder: Path, files: Mapping[str, str | bytes]) -> list[str]:
    """What the lint would say of a catalog that can be used, but for the missing login code."""
    return [
        f"{problem.file}:{problem.line}: {problem.message}"
        for problem in Catalog.load(write(folder, files), limits=RenderLimits()).warnings
        if problem.file != "auth.login_code"
    ]

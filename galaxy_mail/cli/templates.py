"""`galaxy-mail templates`: lists, checks and previews the templates of a folder."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click
from msgspec.structs import asdict

from galaxy_mail.cli.options import as_json
from galaxy_mail.cli.output import print_json, print_table
from galaxy_mail.domain.errors import GalaxyMailError
from galaxy_mail.domain.locales import DEFAULT_LOCALE
from galaxy_mail.domain.records import Failure, RenderedContent
from galaxy_mail.domain.strict_json import StrictJsonError, loads
from galaxy_mail.rendering.bundled import bundled_templates
from galaxy_mail.rendering.catalog import Catalog
from galaxy_mail.rendering.catalog_problems import BrokenCatalog, CatalogProblem, Severity
from galaxy_mail.rendering.limits import RenderLimits
from galaxy_mail.rendering.sources import PARTS

EXIT_PROBLEM: Final = 1


class BadVariables(GalaxyMailError):
    """The given variables are not valid JSON or not an object. The message quotes no values."""


in_folder = click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    envvar="MAIL_TEMPLATE_DIR",
    help="The template folder.  [default: MAIL_TEMPLATE_DIR, else the bundled one]",
)


@click.group()
def templates() -> None:
    """List, check and preview mail templates. Needs no running service."""


@templates.command("list")
@in_folder
@as_json
def list_templates(folder: Path | None, as_json: bool) -> None:
    """List the templates with their locales, required variables and parts."""
    catalog = _load(folder)
    if as_json:
        print_json({"items": catalog.templates()})
        return
    print_table(
        ("TEMPLATE", "LOCALES", "REQUIRED VARIABLES", "PARTS"),
        [
            (one.template_id, " ".join(one.locales), " ".join(one.required_variables), " ".join(one.parts))
            for one in catalog.templates()
        ],
    )


@templates.command("lint")
@in_folder
@as_json
@click.option("--strict", is_flag=True, help="Exit with status 1 on warnings, too.")
def lint(folder: Path | None, as_json: bool, strict: bool) -> None:
    """Compile and check every template. Prints a line per problem: `file:line: severity: message`.

    The exit status is 1 if there is an error. The service would not start with this folder.
    """
    folder = folder or bundled_templates()
    problems: tuple[CatalogProblem, ...]
    try:
        catalog = _load(folder)
        problems, count = catalog.warnings, len(catalog.templates())
        verdict = f"{count} template{'s' if count != 1 else ''}, no errors"
    except BrokenCatalog as broken:
        problems, verdict = broken.problems, "the templates have errors"
    if as_json:
        print_json({"folder": str(folder), "problems": problems})
    else:
        for problem in problems:
            click.echo(problem.located(folder))
        click.echo(verdict, err=bool(problems))
    if any(strict or problem.severity is Severity.ERROR for problem in problems):
        sys.exit(EXIT_PROBLEM)


@templates.command("preview")
@click.argument("template_id")
@in_folder
@as_json
@click.option("--locale", default=DEFAULT_LOCALE, show_default=True, help="The requested locale.")
@click.option("--var", "given", multiple=True, metavar="NAME=TEXT", help="A variable. May be repeated.")
@click.option(
    "--variables",
    "file",
    type=click.File("rb"),
    help="A file with the variables as a JSON object, `-` for standard input. --var overrides it.",
)
@click.option("--part", type=click.Choice(PARTS), help="Print only this part.")
def preview(
    template_id: str,
    folder: Path | None,
    as_json: bool,
    locale: str,
    given: tuple[str, ...],
    file: Any,
    part: str | None,
) -> None:
    """Render TEMPLATE_ID as the service does. The exit status is 1 if rendering fails."""
    variables = {**_from_file(file), **dict(map(_from_option, given))}
    outcome = _load(folder).render(template_id, locale, variables)
    if isinstance(outcome, Failure):
        if as_json:
            print_json({"code": outcome.code, "summary": outcome.summary})
        else:
            click.echo(f"{outcome.code}: {outcome.summary}", err=True)
        sys.exit(EXIT_PROBLEM)
    bodies = {"subject": outcome.subject, "text": outcome.text_body, "html": outcome.html_body}
    body = bodies[part] if part is not None else None
    if part is not None and body is None:
        click.echo(f"{template_id} has no {part} part in locale {outcome.locale_used}", err=True)
        sys.exit(EXIT_PROBLEM)
    if as_json:
        print_json(asdict(outcome))
    elif body is not None:
        click.echo(body, nl=not body.endswith("\n"))
    else:
        _show(outcome)


def _show(content: RenderedContent) -> None:
    fallback = "  (a fallback)" if content.locale_fallback_used else ""
    click.echo(f"Locale:  {content.locale_used}{fallback}")
    click.echo(f"Subject: {content.subject}\n")
    click.echo(content.text_body.rstrip("\n"))
    if content.html_body is not None:
        click.echo(f"\nHTML: {len(content.html_body.encode())} bytes; print it with --part html", err=True)


def _load(folder: Path | None) -> Catalog:
    return Catalog.load(folder or bundled_templates(), limits=RenderLimits())


def _from_option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.BadParameter("must be NAME=TEXT", param_hint="--var")
    return name, value


def _from_file(file: Any) -> Mapping[str, Any]:
    if file is None:
        return {}
    try:
        variables = loads(file.read())  # the intake's strict decoder
    except StrictJsonError as error:
        raise BadVariables(f"{file.name}: {error}") from None
    if not isinstance(variables, dict):
        raise BadVariables(f"{file.name}: not a JSON object")
    return variables

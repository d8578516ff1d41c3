"""Compiles one part (subject, text or HTML) of a template in one locale, and renders it."""

from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Final

from jinja2 import TemplateError, TemplateSyntaxError, UndefinedError, nodes
from jinja2.environment import Template
from jinja2.meta import find_undeclared_variables

from galaxy_mail.domain.errors import GalaxyMailError
from galaxy_mail.rendering.catalog_problems import CatalogProblem, Severity, error, warning
from galaxy_mail.rendering.failures import RenderFailureCode, TemplateRefused
from galaxy_mail.rendering.filters import FILTERS
from galaxy_mail.rendering.language import TOO_DEEP, check_language
from galaxy_mail.rendering.limits import Meter
from galaxy_mail.rendering.markup import check_markup
from galaxy_mail.rendering.metering import INTERNAL_FILTERS, Metering
from galaxy_mail.rendering.predicates import PREDICATES
from galaxy_mail.rendering.sandbox import FUNCTIONS, MailEnvironment, MeteredContext
from galaxy_mail.rendering.sources import TemplateSource

# The summary for an exception, whose own text may contain a variable's value.
SAFE_SUMMARIES: Final[tuple[tuple[type[Exception], str], ...]] = (
    (ZeroDivisionError, "division by zero"),
    (OverflowError, "a number too large"),
    (UnicodeError, "invalid Unicode text"),
    (TypeError, "a value of the wrong type"),
    (ValueError, "an invalid value"),
    (LookupError, "an element that does not exist"),
    (RecursionError, TOO_DEEP),
)


class PartFailed(GalaxyMailError):
    """A part can't be rendered. `summary` contains no values of variables."""

    def __init__(self, code: RenderFailureCode, summary: str) -> None:
        super().__init__(summary)
        self.code = code
        self.summary = summary


class Part:
    """A compiled part. Immutable; several threads may render it at once."""

    def __init__(self, source: TemplateSource, template: Template, names: Mapping[str, int]) -> None:
        self.source = source
        self.names = names  # required variable -> line of its first use
        self._template = template
        self._environment = template.environment

    def render(self, variables: Mapping[str, Any], meter: Meter) -> str:
        """The part's text. Raises only PartFailed, whatever the variables contain."""
        assert isinstance(self._environment, MailEnvironment)
        pieces: list[str] = []
        room = meter.output_bytes
        try:
            context = MeteredContext(
                self._environment, {**FUNCTIONS, **variables}, self._template.name, {}, FUNCTIONS, meter=meter
            )
            for piece in self._template.root_render_func(context):
                room -= len(piece)  # a character has at least one byte
                if room < 0:
                    raise meter.too_large()
                pieces.append(piece)
            text = "".join(pieces)
            meter.output_bytes -= len(text) if text.isascii() else len(text.encode())
            if meter.output_bytes < 0:
                raise meter.too_large()
        except TemplateRefused as refused:
            raise self._failed(refused.code, str(refused), refused) from None
        except UndefinedError as undefined:
            raise self._failed(RenderFailureCode.RENDER_ERROR, str(undefined), undefined) from None
        except Exception as failed:  # noqa: BLE001  # any use of a value may raise anything; the summary has no values
            summary = next(
                (summary for kind, summary in SAFE_SUMMARIES if isinstance(failed, kind)), "an error"
            )
            raise self._failed(RenderFailureCode.RENDER_ERROR, summary, failed) from None
        return text

    def _failed(self, code: RenderFailureCode, summary: str, failed: Exception) -> PartFailed:
        line = _line(self._template, failed.__traceback__)
        place = self.source.file if line is None else f"{self.source.file}:{line}"
        return PartFailed(code, f"{place}: {summary}")


def new_environment() -> MailEnvironment:
    return MailEnvironment(filters={**FILTERS, **INTERNAL_FILTERS}, tests=PREDICATES)


def compile_part(
    environment: MailEnvironment, source: TemplateSource
) -> tuple[Part | None, list[CatalogProblem]]:
    """The part and its problems. The part is None if a problem is an error."""
    file = source.file
    try:
        tree = environment.parse(source.text, file, file)
        problems = list(check_language(file, tree))
        if any(problem.severity is Severity.ERROR for problem in problems):
            return None, problems
        names = _first_uses(tree)
        problems += [*_check_guards(file, tree, names), *_check_sets(file, tree, names)]
        if source.part == "html":
            problems += check_markup(file, tree)
        elif source.part == "subject":
            problems += _check_one_line(file, tree)
        if any(problem.severity is Severity.ERROR for problem in problems):
            return None, problems
        Metering().visit(tree)
        tree.set_environment(environment)
        code = environment.compile(tree, file, file)
        return Part(source, Template.from_code(environment, code, environment.globals), names), problems
    except TemplateSyntaxError as failed:
        return None, [error(file, failed.lineno, failed.message or "a syntax error")]
    except TemplateError as failed:
        return None, [error(file, 1, failed.message or "does not compile")]
    except RecursionError:
        return None, [error(file, 1, TOO_DEEP)]
    except (SyntaxError, ValueError, MemoryError) as failed:  # from Python's compiler, for Jinja2's output
        return None, [error(file, 1, f"does not compile: {getattr(failed, 'msg', type(failed).__name__)}")]


def _first_uses(tree: nodes.Template) -> dict[str, int]:
    """The variables that a caller must give -> line of the first use."""
    undeclared = find_undeclared_variables(tree)
    lines: dict[str, int] = {}
    for name in tree.find_all(nodes.Name):
        if name.name in undeclared:
            lines[name.name] = min(name.lineno, lines.get(name.name, name.lineno))
    return {name: lines.get(name, 1) for name in sorted(undeclared)}


def _check_one_line(file: str, tree: nodes.Template) -> Iterator[CatalogProblem]:
    """Finds a line break that the subject would have with any variables."""
    begun = broken = False  # something was printed; a line break followed
    for output in tree.body:
        if not isinstance(output, nodes.Output):
            continue  # a block may print nothing
        for part in output.nodes:
            lines = part.data.split("\n") if isinstance(part, nodes.TemplateData) else ["an expression"]
            for number, line in enumerate(lines):
                broken = broken or (begun and number > 0)
                if line.strip() and broken:
                    yield error(file, part.lineno + number, "a subject must be one line")
                    return
                begun = begun or bool(line.strip())


def _check_guards(file: str, tree: nodes.Template, names: Mapping[str, int]) -> list[CatalogProblem]:
    """Finds `is defined` and `default` on a variable, which have no effect, because every variable is required."""
    problems: list[CatalogProblem] = []
    for guard in tree.find_all((nodes.Test, nodes.Filter)):
        if not isinstance(guard.node, nodes.Name) or guard.node.name not in names:
            continue
        name, asks = guard.node.name, isinstance(guard, nodes.Test) and guard.name in ("defined", "undefined")
        defaults = isinstance(guard, nodes.Filter) and guard.name in ("default", "d")
        if asks:
            hint = f"`{name}` is required, so it is always defined: pass null and test `{name} is none`"
            problems.append(warning(file, guard.lineno, hint))
        elif defaults and len(guard.args) < 2 and not guard.kwargs:
            hint = (
                f"`{name}` is required, so the default is never used: pass null and write `default(…, true)`"
            )
            problems.append(warning(file, guard.lineno, hint))
    return problems


def _check_sets(file: str, tree: nodes.Template, names: Mapping[str, int]) -> list[CatalogProblem]:
    """Finds names that are set in some branches only. Callers must give them, which is seldom intended."""
    problems: list[CatalogProblem] = []
    settings: list[nodes.Assign | nodes.AssignBlock] = [
        *tree.find_all(nodes.Assign),
        *tree.find_all(nodes.AssignBlock),
    ]
    for setting in settings:
        targets = [setting.target, *setting.target.find_all(nodes.Name)]
        used = {name.name for name in setting.find_all(nodes.Name) if name.ctx == "load"}
        for target in targets:
            if isinstance(target, nodes.Name) and target.name in names and target.name not in used:
                hint = f"`{target.name}` is not set in every branch, so callers must give it, too: set it before them"
                problems.append(warning(file, setting.lineno, hint))
    return problems


def _line(template: Template, trace: TracebackType | None) -> int | None:
    """The template's line that failed: that of the innermost frame with the template's code."""
    line = None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == template.filename:
            line = template.get_corresponding_lineno(trace.tb_lineno)
        trace = trace.tb_next
    return line

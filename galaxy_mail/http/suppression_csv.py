"""The suppression list as CSV (RFC 4180)."""

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Final

from galaxy_mail.domain.addresses import BadAddress, parse_suppression_entry
from galaxy_mail.domain.errors import FieldError
from galaxy_mail.domain.invalid import BODY, InvalidRequest
from galaxy_mail.domain.records import Suppression
from galaxy_mail.domain.strict_json import shown_name
from galaxy_mail.http import requests as r

COLUMNS: Final = ("address", "reason", "created_by", "created_at_ms")
REQUIRED: Final = ("address", "reason")
ERRORS_MAX: Final = 100  # in one response

HEADER: Final = (",".join(COLUMNS) + "\r\n").encode()


def encode(entries: Iterable[Suppression]) -> bytes:
    """The lines of these entries, without the header."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\r\n")
    writer.writerows((e.address, e.reason, e.created_by or "", e.created_at_ms) for e in entries)
    return lines.getvalue().encode()


def decode(data: bytes, created_by: str | None, now_ms: int) -> list[Suppression]:
    """The entries. Raises InvalidRequest with every invalid record, by the number of its first line.

    `created_by` and `now_ms` are the defaults of absent cells.
    """
    try:
        lines = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
    except UnicodeDecodeError as error:
        raise InvalidRequest([FieldError(BODY, f"is not UTF-8 (byte {error.start})")]) from None
    errors: list[FieldError] = []
    entries: dict[str, Suppression] = {}
    columns: list[str] | None = None
    begins_at = 1
    try:
        for cells in lines:
            where, begins_at = f"line {begins_at}", lines.line_num + 1
            if not cells:
                continue  # a blank line
            if columns is None:
                columns = _columns(cells, where)
                continue
            try:
                entry = _entry(columns, cells, where, created_by, now_ms)
                if entry.address in entries:
                    raise FieldError(where, "address: stands in an earlier line, too")
                entries[entry.address] = entry
            except FieldError as error:
                errors.append(error)
    except csv.Error:
        errors.append(FieldError(f"line {begins_at}", "is not CSV (RFC 4180)"))
    if columns is None and not errors:
        errors.append(FieldError("line 1", f"must name the columns, {' and '.join(REQUIRED)} at least"))
    if len(errors) > ERRORS_MAX:
        more = len(errors) - ERRORS_MAX
        errors = [*errors[:ERRORS_MAX], FieldError(BODY, f"has {more} more bad lines")]
    if errors:
        raise InvalidRequest(errors)
    return list(entries.values())


def _columns(cells: list[str], where: str) -> list[str]:
    """The columns of the header line. Raises InvalidRequest."""
    names = [cell.strip() for cell in cells]
    errors = [
        FieldError(where, f"{shown_name(name)}: is no column of this list")
        for name in names
        if name not in COLUMNS
    ]
    errors += [FieldError(where, f"{name}: is required") for name in REQUIRED if name not in names]
    if len(set(names)) < len(names):
        errors.append(FieldError(where, "names a column twice"))
    if errors:
        raise InvalidRequest(errors)
    return names


def _entry(
    columns: list[str], cells: list[str], where: str, created_by: str | None, now_ms: int
) -> Suppression:
    if len(cells) != len(columns):
        raise FieldError(where, f"has {len(cells)} cells instead of {len(columns)}")
    line: Mapping[str, str] = dict(zip(columns, cells, strict=True))
    column = "address"
    try:
        address = parse_suppression_entry(line["address"].strip())
        column = "reason"
        reason = r.reason(line["reason"])
        column = "created_by"
        by = r.person(line["created_by"]) if line.get("created_by") else created_by
        column = "created_at_ms"
        at_ms = r.query_time_ms(line["created_at_ms"]) if line.get("created_at_ms") else now_ms
    except (BadAddress, ValueError) as wrong:
        raise FieldError(where, f"{column}: {wrong}") from None
    return Suppression(address=address, reason=reason, created_by=by, created_at_ms=at_ms)

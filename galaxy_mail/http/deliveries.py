"""Deliveries, their attempts, and resends."""

from typing import Final

import msgspec

from galaxy_mail.domain.ids import DELIVERY_ID
from galaxy_mail.domain.invalid import idempotency_key as idempotency_key_of
from galaxy_mail.domain.json_body import Members, mail_address
from galaxy_mail.domain.records import DeliveryStatus, Source
from galaxy_mail.domain.resend_job import (
    PER_SECOND_DEFAULT,
    PER_SECOND_MAX,
    ResendFilter,
    ResendJobRequest,
)
from galaxy_mail.domain.states import TERMINAL
from galaxy_mail.http import requests as r
from galaxy_mail.http.audit import audited, known
from galaxy_mail.http.connection import HttpRequest
from galaxy_mail.http.problems import NothingThere
from galaxy_mail.http.responses import REPLAYED, Response, json_response, page_response
from galaxy_mail.http.routes import API, Route
from galaxy_mail.http.tokens import Role
from galaxy_mail.http.views import attempt_view, delivery_view, resend_job_view
from galaxy_mail.intake.resend_job_runner import ResendJobRunner
from galaxy_mail.intake.resending import Resending, UnknownParent
from galaxy_mail.storage.reader import Filter, Reader

_CURSOR: Final = r.cursor(DELIVERY_ID)
_STATUS: Final = r.one_of(DeliveryStatus)
_SOURCE: Final = r.one_of(Source)
_ENDED: Final = r.one_of(DeliveryStatus, TERMINAL)
_PACE: Final = r.number(1, PER_SECOND_MAX)


class Deliveries:
    """Finds, shows and resends deliveries."""

    def __init__(self, reader: Reader, resending: Resending, resend_jobs: ResendJobRunner) -> None:
        self._reader = reader
        self._resending = resending
        self._resend_jobs = resend_jobs

    def routes(self) -> tuple[Route, ...]:
        one = f"{API}/deliveries/<delivery_id>"
        return (
            Route("GET", f"{API}/deliveries", Role.OPERATOR, self.list),
            Route("GET", one, Role.OPERATOR, self.show),
            Route("GET", f"{one}/attempts", Role.OPERATOR, self.attempts),
            Route("POST", f"{one}/resend", Role.OPERATOR, self.resend),
            Route("POST", f"{API}/resends", Role.OPERATOR, self.start_job),
            Route("GET", f"{API}/resends/<job_id>", Role.OPERATOR, self.job),
        )

    async def list(self, request: HttpRequest) -> Response:
        query = r.query_members(request)
        which = Filter(
            recipient=query.take("recipient", mail_address, None),
            status=query.take("status", _STATUS, None),
            source=query.take("source", _SOURCE, None),
            template_id=query.take("template_id", r.template_id, None),
            idempotency_key=query.take("idempotency_key", r.idempotency_key, None),
            created_from_ms=query.take("created_from_ms", r.query_time_ms, None),
            created_to_ms=query.take("created_to_ms", r.query_time_ms, None),
        )
        limit, after = r.take_paging(query, _CURSOR, None)
        page = await self._reader.deliveries(which, limit=limit, after=after)
        children = await self._reader.children([delivery.delivery_id for delivery in page.items])
        return page_response(map(delivery_view, page.items, children), r.encode_cursor(page.next))

    async def show(self, request: HttpRequest, delivery_id: str) -> Response:
        r.query_members(request).finish()
        delivery = await self._reader.delivery(_valid(delivery_id))
        if delivery is None:
            raise NothingThere("delivery")
        [children] = await self._reader.children([delivery_id])
        return json_response(delivery_view(delivery, children))

    async def attempts(self, request: HttpRequest, delivery_id: str) -> Response:
        r.query_members(request).finish()
        attempts = await self._reader.attempts(_valid(delivery_id))
        if attempts is None:
            raise NothingThere("delivery")
        return json_response({"items": list(map(attempt_view, attempts))})

    async def resend(self, request: HttpRequest, delivery_id: str) -> Response:
        key = idempotency_key_of(request.headers.getlist("Idempotency-Key"))
        resent_by, reason = await self._who_and_why(request)
        with audited(request, "resend", delivery_id=delivery_id, resent_by=resent_by, reason=reason) as facts:
            try:
                resent = await self._resending.resend(
                    _valid(delivery_id),
                    idempotency_key=key,
                    resent_by=resent_by or known(request),
                    tracing=r.tracing(request),
                )
            except UnknownParent:
                raise NothingThere("delivery") from None
            facts.update(clone_delivery_id=resent.delivery_id, replayed=resent.replayed)
        document = {"delivery_id": resent.delivery_id, "parent_delivery_id": resent.parent_delivery_id}
        return json_response(document, REPLAYED) if resent.replayed else json_response(document, status=201)

    async def _who_and_why(self, request: HttpRequest) -> tuple[str | None, str | None]:
        """The members of the optional body."""
        r.query_members(request).finish()
        body = await request.read_body(r.BODY_MAX_BYTES)
        if not body:
            return None, None
        members = r.body_members(body, request)
        resent_by = members.take("resent_by", r.person, None)
        reason = members.take("reason", r.reason, None)
        members.finish()
        return resent_by, reason

    async def start_job(self, request: HttpRequest) -> Response:
        key = idempotency_key_of(request.headers.getlist("Idempotency-Key"))
        r.query_members(request).finish()
        members = r.body_members(await request.read_body(r.BODY_MAX_BYTES), request)
        asked = _job_request(members, created_by=known(request))
        with audited(
            request,
            "resend_job",
            filter=msgspec.to_builtins(asked.filter),
            per_second=asked.per_second,
            dry_run=asked.dry_run,
            created_by=asked.created_by,
            reason=asked.reason,
        ) as facts:
            job, replayed = await self._resend_jobs.start(asked, members.values, idempotency_key=key)
            facts.update(job_id=job.job_id, replayed=replayed)
        if replayed:
            return json_response(resend_job_view(job), REPLAYED)
        location = (b"location", f"{API}/resends/{job.job_id}".encode())
        return json_response(resend_job_view(job), location, status=202)

    async def job(self, request: HttpRequest, job_id: str) -> Response:
        r.query_members(request).finish()
        job = await self._resend_jobs.get(job_id)
        if job is None:
            raise NothingThere("resend job")
        return json_response(resend_job_view(job))


def _valid(delivery_id: str) -> str:
    """The id. Raises NothingThere if it is not a valid one."""
    if not DELIVERY_ID.fullmatch(delivery_id):
        raise NothingThere("delivery")
    return delivery_id


def _job_request(members: Members, *, created_by: str | None) -> ResendJobRequest:
    which = members.need_members("filter")
    chosen = ResendFilter(
        status=which.need("status", _ENDED, DeliveryStatus.FAILED),
        recipient=which.take("recipient", mail_address, None),
        source=which.take("source", _SOURCE, None),
        template_id=which.take("template_id", r.template_id, None),
        created_from_ms=which.take("created_from_ms", r.time_ms, None),
        created_to_ms=which.take("created_to_ms", r.time_ms, None),
    )
    which.refuse_unknown()
    request = ResendJobRequest(
        filter=chosen,
        reason=members.need("reason", r.reason, ""),
        created_by=members.take("created_by", r.person, created_by),
        dry_run=members.take("dry_run", r.flag, False),
        per_second=members.take("per_second", _PACE, PER_SECOND_DEFAULT),
    )
    members.finish()
    return request

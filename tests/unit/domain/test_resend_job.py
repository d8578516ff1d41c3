"""What a job covers, who may work on it, and how its id follows from its key."""

import re

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from galaxy_mail.domain.ids import IDEMPOTENCY_KEY
from galaxy_mail.domain.records import DeliveryStatus, decode, encode
from galaxy_mail.domain.resend_job import (
    JobStatus,
    ResendFilter,
    ResendJob,
    ResendJobRequest,
    job_id_of,
    new_job,
)
from tests.contracts.documents import openapi

REQUEST = ResendJobRequest(filter=ResendFilter(status=DeliveryStatus.DEAD_LETTER), reason="x")
JOB = new_job(REQUEST, {"reason": "x"}, idempotency_key="k", now_ms=1_000)


@given(st.from_regex(IDEMPOTENCY_KEY, fullmatch=True))
def test_every_key_gives_an_id_of_the_contracts_grammar(key: str) -> None:
    pattern = openapi()["components"]["schemas"]["JobId"]["pattern"]
    assert re.fullmatch(pattern.strip("^$"), job_id_of(key))
    assert job_id_of(key) == job_id_of(key)
    assert job_id_of(key) != job_id_of(key + " ")


def test_no_job_reaches_beyond_its_own_beginning() -> None:
    assert JOB.created_to_ms == 1_000
    for asked, counts in ((0, 0), (999, 999), (2_000, 1_000)):
        bounded = ResendFilter(status=DeliveryStatus.FAILED, created_to_ms=asked)
        assert replace(JOB, filter=bounded).created_to_ms == counts


def test_a_running_job_belongs_to_its_owner_until_that_is_lost() -> None:
    owned = replace(JOB, owner="a", owned_until_ms=5_000)
    assert JOB.may_be_worked_on_by("b", 1)
    assert owned.may_be_worked_on_by("a", 4_999)
    assert not owned.may_be_worked_on_by("b", 4_999)
    assert owned.may_be_worked_on_by("b", 5_000)
    assert owned.is_owned_by("a", 4_999)
    assert not owned.is_owned_by("a", 5_000)
    assert not owned.is_owned_by("b", 1)


def test_a_finished_job_is_nobodys_work() -> None:
    ended = replace(JOB, owner="a", owned_until_ms=5_000).finished(JobStatus.DONE, at_ms=2_000)
    assert not ended.may_be_worked_on_by("a", 1)
    assert (ended.owner, ended.finished_at_ms, ended.running) == (None, 2_000, False)


def test_each_delivery_has_one_key_per_job_that_fits_the_grammar() -> None:
    longest = "d" * 128
    assert IDEMPOTENCY_KEY.fullmatch(JOB.idempotency_key(longest))
    other = new_job(REQUEST, {"reason": "x"}, idempotency_key="k2", now_ms=1_000)
    assert JOB.idempotency_key("d1") != other.idempotency_key("d1")


def test_a_job_comes_back_from_its_bytes() -> None:
    assert decode(encode(JOB), ResendJob) == JOB

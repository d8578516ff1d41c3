import pytest

from galaxy_mail.providers.smtp.outcomes import Exchange
from galaxy_mail.relays.sameness import ACCEPTED, HowItEnded, Sameness, failed

SPAM = HowItEnded(exchange=Exchange.FINAL, code=554, enhanced="5.7.1")


def blamed(*endings: tuple[str, HowItEnded] | None) -> list[bool]:
    """For each failure, whether the relay is to blame. None: a mail was accepted."""
    sameness, answers = Sameness(), []
    for ending in endings:
        if ending is None:
            sameness = ACCEPTED
        else:
            sameness, relay = failed(sameness, *ending)
            answers.append(relay)
    return answers


def test_the_fifth_delivery_in_a_row_that_ends_alike_and_the_next_are_the_relays_fault() -> None:
    assert blamed(*((f"d{n}", SPAM) for n in range(7))) == [False] * 4 + [True] * 3


def test_one_delivery_counts_once() -> None:
    assert blamed(*(("d1", SPAM) for _ in range(9))) == [False] * 9


@pytest.mark.parametrize(
    "other",
    [
        HowItEnded(exchange=Exchange.FINAL, code=554, enhanced="5.7.2"),
        HowItEnded(exchange=Exchange.FINAL, code=550, enhanced="5.7.1"),
        HowItEnded(exchange=Exchange.DATA, code=554, enhanced="5.7.1"),
        HowItEnded(exchange=Exchange.DATA),
    ],
)
def test_another_ending_begins_a_new_row(other: HowItEnded) -> None:
    row = [(f"d{n}", SPAM) for n in range(4)]
    assert blamed(*row, ("x", other), ("d5", SPAM)) == [False] * 6


def test_an_accepted_mail_ends_the_row() -> None:
    row = [(f"d{n}", SPAM) for n in range(4)]
    assert blamed(*row, None, ("d5", SPAM)) == [False] * 5


def test_silence_before_the_final_dot_counts() -> None:
    silent = HowItEnded(exchange=Exchange.BODY)
    assert blamed(*((f"d{n}", silent) for n in range(5)))[-1]


@pytest.mark.parametrize(
    ("code", "enhanced", "counts"),
    [
        (550, None, False),
        (551, None, False),
        (553, None, False),
        (554, None, True),
        (451, None, True),
        (550, "5.1.1", False),
        (450, "4.1.8", False),
        (554, "5.1.2", False),
        (450, "4.2.0", False),
        (552, "5.2.2", False),
        (550, "5.2.4", False),
        (550, "5.2.5", True),
        (554, "5.7.1", True),
        (504, "5.5.2", True),
        (550, "5.10.1", True),
    ],
)
def test_a_refused_recipient_never_counts_and_does_not_end_the_row(
    code: int, enhanced: str | None, counts: bool
) -> None:
    ended = HowItEnded(exchange=Exchange.RCPT, code=code, enhanced=enhanced)
    assert blamed(*((f"d{n}", ended) for n in range(20)))[-1] is counts
    row = [(f"d{n}", SPAM) for n in range(4)]
    assert blamed(*row, ("x", ended), ("d5", SPAM))[-1] is not counts


def test_the_same_codes_count_elsewhere() -> None:
    ended = HowItEnded(exchange=Exchange.FINAL, code=550, enhanced="5.1.1")
    assert blamed(*((f"d{n}", ended) for n in range(5)))[-1]


def test_silence_after_the_final_dot_does_not_count() -> None:
    silent = HowItEnded(exchange=Exchange.FINAL)
    assert blamed(*((f"d{n}", silent) for n in range(9))) == [False] * 9

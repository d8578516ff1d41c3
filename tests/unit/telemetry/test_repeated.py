from galaxy_mail.telemetry.repeated import Repeated


def test_a_failure_is_new_when_its_reason_changes_and_after_it_was_over() -> None:
    failure = Repeated()
    assert [failure.is_new(reason) for reason in ("a", "a", "b", "a")] == [True, False, True, True]
    failure.over()
    assert [failure.is_new("a"), failure.is_new("a")] == [True, False]

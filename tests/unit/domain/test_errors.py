"""Exceptions that come out of nurseries: taken apart, or carried out as one."""

import pytest
import trio

from galaxy_mail.domain.errors import leaves, root_cause, ungrouped


async def fail(error: Exception) -> None:
    raise error


async def fail_in_nurseries(error: Exception) -> None:
    with ungrouped(KeyError):
        async with trio.open_nursery() as outer, trio.open_nursery() as nursery:
            outer.start_soon(trio.sleep_forever)
            nursery.start_soon(fail, error)


async def test_what_a_nursery_raises_comes_out_as_it_was() -> None:
    cause, failure = OSError("why"), KeyError("it")
    failure.__cause__ = cause
    with pytest.raises(KeyError) as raised:
        await fail_in_nurseries(failure)
    assert raised.value is failure
    assert failure.__cause__ is cause


def test_of_several_the_first_is_raised() -> None:
    with pytest.raises(KeyError, match="one"), ungrouped(LookupError):
        raise ExceptionGroup("all", [ExceptionGroup("inner", [KeyError("one")]), IndexError("two")])


def test_other_exceptions_go_on_in_their_group() -> None:
    other = ExceptionGroup("all", [ValueError("x")])
    with pytest.raises(ExceptionGroup) as raised, ungrouped(KeyError):
        raise other
    assert raised.value is other
    with pytest.raises(ExceptionGroup) as raised, ungrouped(KeyError):
        raise ExceptionGroup("all", [KeyError("one"), ValueError("two")])
    assert [type(error) for error in leaves(raised.value)] == [ValueError]
    with pytest.raises(ValueError, match="alone"), ungrouped(KeyError):
        raise ValueError("alone")


async def test_a_cancellation_goes_before_a_failure() -> None:
    """The nursery's own is not seen; one from outside must reach its scope."""

    async def fail_at_the_end() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError("it")

    with trio.CancelScope() as scope, ungrouped(KeyError):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_at_the_end)
            nursery.start_soon(trio.sleep_forever)
            scope.cancel()
    assert scope.cancelled_caught


def test_the_root_cause_is_found_through_groups_and_causes() -> None:
    root = OSError(111, "refused")
    middle = OSError("all attempts failed")
    middle.__cause__ = ExceptionGroup("attempts", [root, ValueError("another")])
    outer = RuntimeError("lost")
    outer.__cause__ = middle
    assert root_cause(outer) is root
    assert root_cause(root) is root

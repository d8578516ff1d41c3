"""A script as a typed operation: its keys and arguments by name, and what its reply means."""

from collections.abc import Callable, Iterable
from typing import Final, Generic, NamedTuple, TypeVar

from galaxy_mail.storage.links.protocol import Arg, Call, RedisLink, Reply
from galaxy_mail.storage.links.replies import answered
from galaxy_mail.storage.links.script import script

K = TypeVar("K", bound=tuple[str, ...])
A = TypeVar("A", bound=tuple[Arg | None, ...])
R = TypeVar("R")


class NoKeys(NamedTuple):
    """Of a script that has only `more_keys`."""


class NoArgs(NamedTuple):
    """Of a script without arguments."""


class Operation(Generic[K, A, R]):
    """One script: `await RENEW.run(link, RenewKeys(claims=..., ...), RenewArgs(delivery_id=..., ...))`.

    The fields of `K` and `A` are the positions in the script's header, in that order. What the header marks with `...`
    is passed as `more_keys` and `more_args`.
    """

    def __init__(self, name: str, keys: type[K], args: type[A], decode: Callable[[Reply], R]) -> None:
        self.script: Final = script(name)
        self.keys: Final = keys
        self.args: Final = args
        self._decode = decode

    def call(self, keys: K, args: A, *, more_keys: Iterable[str] = (), more_args: Iterable[Arg] = ()) -> Call:
        """The call, to be sent with others in one pipeline. `decode` reads its reply. None is passed as ""."""
        given = ["" if arg is None else arg for arg in args]
        return Call(self.script, (*keys, *more_keys), (*given, *more_args))

    def decode(self, reply: Reply) -> R:
        """Raises RedisRefused."""
        return self._decode(answered(reply))

    async def run(
        self,
        link: RedisLink,
        keys: K,
        args: A,
        *,
        more_keys: Iterable[str] = (),
        more_args: Iterable[Arg] = (),
    ) -> R:
        """Raises RedisFailure."""
        call = self.call(keys, args, more_keys=more_keys, more_args=more_args)
        [reply] = await link.pipeline([call])
        return self.decode(reply)

"""What operators read: deliveries, attempts, dead letters, malformed commands. Never: a write."""

from galaxy_mail.storage.store import Store


class Reader:
    """Reads records by id and in pages."""

    def __init__(self, store: Store) -> None:
        self._store = store

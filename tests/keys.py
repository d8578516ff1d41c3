"""The names of all keys in a store of which nothing is configured."""

from typing import Final

from galaxy_mail.storage.records.keys import Keys

k: Final = Keys()

"""Sending finished deliveries again: one, or all that match a filter. Never: a change of what is sent again."""

from galaxy_mail.intake import Intake
from galaxy_mail.storage.reader import Reader
from galaxy_mail.telemetry.traces import Traces


class Resending:
    """Makes clones."""

    def __init__(self, reader: Reader, intake: Intake, traces: Traces) -> None:
        self._reader = reader
        self._intake = intake
        self._traces = traces

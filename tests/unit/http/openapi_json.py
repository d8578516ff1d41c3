"""Writes the contract as JSON, as the API serves it: `python -m tests.unit.http.openapi_json`."""

import json
from pathlib import Path
from typing import Final

import galaxy_mail.http.health
from tests.contracts.documents import openapi

SERVED: Final = Path(galaxy_mail.http.health.__file__).with_name("openapi.json")


def as_json() -> str:
    return json.dumps(openapi(), ensure_ascii=False, indent=1) + "\n"


if __name__ == "__main__":
    SERVED.write_text(as_json(), encoding="utf-8")

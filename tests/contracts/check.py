"""`python -m tests.contracts.check`: are both contracts valid, true to their examples and to the code?

With `--json` it prints the OpenAPI contract as JSON, which is how the service serves it.
"""

import json
import sys

from tests.contracts import against_code, against_themselves
from tests.contracts.documents import Document, asyncapi, openapi


def problems(openapi_document: Document, asyncapi_document: Document) -> list[str]:
    """All that is wrong. What follows an invalid document is not looked at: it would only confuse."""
    found = [
        *against_themselves.openapi_is_valid(openapi_document),
        *against_themselves.asyncapi_is_valid(asyncapi_document),
        *against_themselves.references_resolve(openapi_document),
        *against_themselves.references_resolve(asyncapi_document),
    ]
    if found:
        return found
    return [
        *against_themselves.operations_are_complete(openapi_document),
        *against_themselves.openapi_examples_match(openapi_document),
        *against_themselves.asyncapi_examples_match(asyncapi_document),
        *against_code.openapi_agrees(openapi_document),
        *against_code.asyncapi_agrees(asyncapi_document),
        *against_code.contracts_agree(openapi_document, asyncapi_document),
    ]


def main() -> int:
    if sys.argv[1:] == ["--json"]:
        json.dump(openapi(), sys.stdout, ensure_ascii=False, separators=(",", ":"))
        return 0
    found = problems(openapi(), asyncapi())
    for problem in found:
        print(problem, file=sys.stderr)
    print(f"contracts: {len(found)} problems" if found else "contracts: valid, and what the code does")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

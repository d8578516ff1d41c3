"""Spin explores every interleaving of the models, and of mutants of them.

A mutant is a model with one line changed. It must break the property that it names: a property that no mutant breaks
proves nothing.
"""

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest
from msgspec import Struct

HERE: Final = Path(__file__).parent
TOOLS: Final = HERE.parents[1] / ".tools"
SPIN: Final = TOOLS / "spin"
WITHIN_S: Final = 50


def _why_missing() -> str:
    reason = TOOLS / "spin.missing"
    return reason.read_text().strip() if reason.exists() else "not fetched: run tests/models/fetch"


pytestmark = pytest.mark.skipif(not SPIN.exists(), reason=f"no spin: {_why_missing()}")


class Check(Struct, frozen=True):
    """One exploration: a model, how it is compiled, and the properties that it checks."""

    model: str
    asserted: Mapping[
        str, str
    ] = {}  # words of an assertion, as spin prints it -> the property's name in the model
    liveness: str = ""  # an ltl formula of the model, checked with weak fairness; "": only what is asserted
    defines: tuple[str, ...] = ()

    def properties(self) -> set[str]:
        return {*self.asserted.values(), *([self.liveness] if self.liveness else [])}


ASSERTED: Final = {"].probe==": "ALONE", "looked[": "HELD", "was_bad": "ODD", "accepted": "ACCEPTED"}
SAFETY: Final = Check("breaker.pml", ASSERTED)
OPERATOR: Final = Check("breaker.pml", {"operator_says": "OPERATOR"}, defines=("OPERATOR", "CRASHES=0"))
OTHERS: Final = Check("breaker.pml", liveness="others", defines=("NO_EXPIRY",))
ENDS: Final = Check("breaker.pml", liveness="ends", defines=("UNKNOWN_RELAY",))
CLAIM: Final = Check("claim.pml", {"claim==token": "FENCE", "!(terminal)": "ONCE", "copies==0": "COPIES"})
CLAIM_ENDS: Final = Check("claim.pml", liveness="ends")
CHECKS: Final = {
    "claim": CLAIM,
    "claim ends": CLAIM_ENDS,
    "safety": SAFETY,
    "operator": OPERATOR,
    "others": OTHERS,
    "ends": ENDS,
}


class Mutant(Struct, frozen=True):
    check: Check
    breaks: str
    old: str
    new: str


MUTANTS: Final = {
    "a lease ends while its owner probes": Mutant(
        SAFETY, "ALONE", "lease != 0 && !p[lease - 1].leased -> lease = 0", "lease != 0 -> lease = 0"
    ),
    "a probe needs no lease": Mutant(
        SAFETY, "ALONE", ":: lease == 0 -> lease = i + 1;", ":: true -> lease = i + 1;"
    ),
    "a slot does not look before it begins": Mutant(
        SAFETY, "HELD", "(p[i].state == closed || p[i].state == checking) && /* NOT HELD */", ""
    ),
    "slots begin before the lift is written": Mutant(
        SAFETY, "HELD", "p[i].begun == 3 && p[i].write == nothing &&", "p[i].begun == 3 &&"
    ),
    "a delivery counts each time it fails": Mutant(
        SAFETY, "ODD", "p[i].failed = p[i].failed | (1 << d)", "p[i].sessions++"
    ),
    "a refused sender opens without a probe": Mutant(
        SAFETY,
        "ODD",
        "p[i].state == closed -> p[i].state = checking; p[i].waits = true",
        "p[i].state == closed -> work[d] = later; p[i].begun = 3; open_hold(session)",
    ),
    "a good session lifts any hold": Mutant(
        SAFETY,
        "ACCEPTED",
        "p[i].state == probing && (hold != delivery || !p[i].fresh) ->",
        "p[i].state == probing ->",
    ),
    "a hold is lifted without a comparison": Mutant(
        SAFETY, "ACCEPTED", "p[i].write == lift && p[i].fresh ->", "p[i].write == lift ->"
    ),
    "a lift lifts the operator's hold": Mutant(
        OPERATOR, "OPERATOR", "     gone()\n", "     gone(); operator_hold = false\n"
    ),
    "an open breaker replaces the operator's hold": Mutant(
        OPERATOR,
        "OPERATOR",
        "     hold = p[i].kind; hold_age = 0;",
        "     hold = p[i].kind; operator_hold = false;",
    ),
    "the next probe uses the same delivery": Mutant(
        OTHERS,
        "others",
        "work[p[i].begun] = later; /* ANOTHER DELIVERY NEXT TIME */",
        "work[p[i].begun] = due;",
    ),
    "the lease is kept after the write": Mutant(OTHERS, "others", "look(); give_lease_back()", "look()"),
    "the lease of a crashed process does not end": Mutant(
        OTHERS, "others", "lease != 0 && !p[lease - 1].leased -> lease = 0", "false"
    ),
    "a refused sender waits for ever": Mutant(
        OTHERS, "others", "settle(i); p[i].state = closed /* WAITS NO LONGER */", "skip"
    ),
    "a good session lifts nothing": Mutant(
        OTHERS, "others", "p[i].state = closed; p[i].write = lift /* A GOOD SESSION */", "p[i].state = open"
    ),
    "a hold has no end": Mutant(ENDS, "ends", "gone() /* ENDS BY ITSELF */", "skip"),
    "whoever looks extends the hold": Mutant(
        ENDS, "ends", "     looked[i] = true;\n", "     looked[i] = true; hold_age = 0;\n"
    ),
    "a stale owner records": Mutant(CLAIM, "FENCE", ":: claim == token -> /* FINISH */", ":: true ->"),
    "a stale owner concludes a loss": Mutant(
        CLAIM,
        "ONCE",
        ":: claim == token ->\n          claim = 0; expired = true;",
        ":: true ->\n          claim = 0; expired = true;",
    ),
    "an attempt of a lost owner goes on": Mutant(
        CLAIM, "COPIES", "lost = begun || losses >= LOSSES_MAX", "lost = losses >= LOSSES_MAX"
    ),
    "a stale owner begins": Mutant(
        CLAIM, "COPIES", "claim == token && !expired -> begun = true /* BEGIN */", "true -> begun = true"
    ),
    "a claim does not expire": Mutant(
        CLAIM_ENDS, "ends", "orphan -> expired = true } /* EXPIRES */", "orphan -> skip }"
    ),
}


def broken_property(check: Check, text: str, folder: Path) -> str | None:
    """The property that does not hold, None if all hold. Raises unless the model was explored whole."""
    model = folder / check.model
    model.write_text(text)
    defines = [f"-D{define}" for define in check.defines]
    _run(folder, str(SPIN), *defines, "-a", model.name)
    kind = ["-DNFAIR=4"] if check.liveness else ["-DSAFETY", "-DNOCLAIM"]
    _run(folder, "gcc", "-w", "-O0", *kind, "-o", "pan", "pan.c")
    explored = _run(
        folder, "./pan", "-m20000", "-w20", *(["-a", "-f", "-N", check.liveness] if check.liveness else [])
    )
    found = re.search(r"^pan:1: (.*)$", explored, re.MULTILINE)
    if found is None:
        assert "errors: 0" in explored, explored
        assert "max search depth too small" not in explored, explored
        return None
    if check.liveness and "acceptance cycle" in found[1]:
        return check.liveness
    return next(name for words, name in check.asserted.items() if words in found[1])


def _run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=WITHIN_S, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("name", CHECKS)
def test_every_property_of_the_model_holds(name: str, tmp_path: Path) -> None:
    check = CHECKS[name]
    assert broken_property(check, (HERE / check.model).read_text(), tmp_path) is None


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_breaks_the_property_that_it_is_for(name: str, tmp_path: Path) -> None:
    mutant = MUTANTS[name]
    text = (HERE / mutant.check.model).read_text()
    assert text.count(mutant.old) == 1
    assert broken_property(mutant.check, text.replace(mutant.old, mutant.new), tmp_path) == mutant.breaks


def test_every_property_has_a_mutant_that_breaks_it() -> None:
    checked = {(check.model, name) for check in CHECKS.values() for name in check.properties()}
    assert checked == {(mutant.check.model, mutant.breaks) for mutant in MUTANTS.values()}

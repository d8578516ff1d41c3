"""The promise, over a thousand seeds. `make simulate SEEDS=n` explores others."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from tests.simulation.pool import run_seeds
from tests.simulation.run import Run

# Those beyond the first thousand failed once, each by a mistake of the harness: a wiped store that had held a newer
# release's record, a job whose parent was forgotten before its clone was counted, a login code that had no time yet to
# get a slot, an unforeseen error in a job's work, claims that a process dropped because its store was wiped.
# Seeds 321, 341, 371 and 801 found a claim's life reckoned from too early on.
SEEDS = [*range(1_000), 1_729, 2_447, 3_556, 4_498, 5_844, 8_159]
CHUNK = 25


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    """Every seed's run, two at a time: what they share is the machine."""
    chunks = [SEEDS[start : start + CHUNK] for start in range(0, len(SEEDS), CHUNK)]
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        return [run for chunk in pool.map(run_seeds, chunks) for run in chunk]


@pytest.mark.timeout(900)
def test_what_was_promised_comes_true_once_whatever_fails(runs: list[Run]) -> None:
    """Witness and oracle find nothing in any seed; the first that fails prints its own history."""
    failed = [run for run in runs if run.violations]
    if failed:
        first = failed[0]
        story = "\n".join([*first.history, *first.violations])
        pytest.fail(f"{len(failed)} seeds failed: {[run.seed for run in failed]}; {first.seed}:\n{story}")


def test_the_seeds_together_meet_every_fault(runs: list[Run]) -> None:
    """A fault or a scene that no seed has is a hole in the proof."""
    met = {fault for run in runs for fault in run.counts}
    assert met == {
        "calm_die", "calm_flood", "calm_hold", "calm_none", "calm_relay", "calm_rush", "calm_stop", "cancel", "clock",
        "crash_at_point",
        "die", "die_at_point", "hold", "kill_actor", "kill_at_point", "lift", "look", "lost_call", "lost_reply", "oom",
        "mood", "pause", "pause_at_dot", "probe_by_delivery", "probe_by_session", "redis_away", "redis_refused",
        "relay_away", "relay_closing", "relay_crowded", "relay_full", "relay_misbehaves", "relay_no_content",
        "relay_no_login", "relay_no_sender", "relay_silent", "relay_well", "resend", "resend_job",
        "restarts_exhausted", "rolled_back", "special_busy", "special_crashes", "special_forgets",
        "special_future", "special_gone", "special_kills", "special_unloadable", "split", "stall", "start", "stop",
        "suppress", "wiped",
    }  # fmt: skip


def test_the_seeds_together_have_every_answer_of_every_script(runs: list[Run]) -> None:
    """Also those that only a race can bring about."""
    told = {tuple(line.split()[i] for i in (2, -1)) for run in runs for line in run.history if "->" in line}
    assert told >= {
        ("accept", "1"), ("accept", "2"), ("accept", "5"), ("begin", "0"), ("begin", "1"), ("begin", "4"),
        ("begin", "6"), ("finish", "0"), ("finish", "1"), ("release", "0"), ("release", "1"), ("skip", "1"),
        ("skip", "5"), ("record_malformed", "1"), ("record_malformed", "5"), ("purge", "1"), ("quarantine", "1"),
        ("save_hold", "1"),
    }  # fmt: skip


def test_a_seed_gives_the_same_run_again() -> None:
    """In another process, too: a failing seed can be looked at."""
    with ProcessPoolExecutor(2, get_context("spawn"), max_tasks_per_child=1) as pool:
        first, again = pool.map(run_seeds, [[7, 11, 23], [7, 11, 23]])
    assert [run.digest for run in first] == [run.digest for run in again]

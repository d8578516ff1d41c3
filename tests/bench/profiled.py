"""The service under a sampling profile: which step had the CPU.

`python -m tests.bench.profiled serve` runs `galaxy-mail serve`. SIGUSR1 starts sampling, SIGUSR2 ends it and writes
JSON to BENCH_PROFILE. Samples come by CPU time (ITIMER_PROF), at the kernel's tick; a sample counts for the innermost
frame that says which step it is, so that libraries count for whoever called them.
"""

import json
import os
import runpy
import signal
import sys
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Final

INTERVAL_S: Final = 0.001

# The first marker that a frame's path contains names its step; without one the caller is asked.
_STEPS: Final = (
    ("galaxy_mail/telemetry/", "telemetry"),
    ("/structlog/", "telemetry"),
    ("/prometheus_client/", "telemetry"),
    ("/opentelemetry/", "telemetry"),
    ("galaxy_mail/rendering/", "render"),
    ("galaxy_mail/providers/mime", "MIME"),
    ("galaxy_mail/providers/", "SMTP"),
    ("galaxy_mail/storage/", "Redis"),
    ("galaxy_mail/domain/", "decisions and JSON"),
    ("galaxy_mail/intake", "decisions and JSON"),
    ("galaxy_mail/actors/", "actors"),
    ("galaxy_mail/http/", "HTTP"),
    ("/hypercorn/", "HTTP"),
    ("/quart", "HTTP"),
)
_LOOP: Final = "unrolled_run"  # the frame below every task: what is above it and unnamed is the loop's own


class Sampler:
    """Counts samples by step and by innermost function."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._step_of: dict[CodeType, str | None] = {}
        self._steps: Counter[str] = Counter()
        self._functions: Counter[str] = Counter()
        signal.signal(signal.SIGUSR1, self._start)
        signal.signal(signal.SIGUSR2, self._end)
        signal.signal(signal.SIGPROF, self._sample)

    def _start(self, *_: object) -> None:
        self._steps.clear()
        self._functions.clear()
        signal.setitimer(signal.ITIMER_PROF, INTERVAL_S, INTERVAL_S)

    def _end(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        report = {"steps": self._steps, "functions": dict(self._functions.most_common(40))}
        unfinished = self._path.with_suffix(".tmp")
        unfinished.write_text(json.dumps(report))
        unfinished.rename(self._path)

    def _sample(self, _: int, frame: FrameType | None) -> None:
        if frame is not None:
            code = frame.f_code
            short = "/".join(Path(code.co_filename).parts[-2:])
            self._functions[f"{short}:{code.co_qualname}"] += 1
        while frame is not None:
            step = self._step(frame.f_code)
            if step is not None:
                self._steps[step] += 1
                return
            frame = frame.f_back
        self._steps["other"] += 1

    def _step(self, code: CodeType) -> str | None:
        if code not in self._step_of:
            named = (step for marker, step in _STEPS if marker in code.co_filename)
            self._step_of[code] = "trio's loop" if code.co_name == _LOOP else next(named, None)
        return self._step_of[code]


if __name__ == "__main__":
    Sampler(Path(os.environ["BENCH_PROFILE"]))
    sys.argv[0] = "galaxy-mail"
    runpy.run_module("galaxy_mail", run_name="__main__", alter_sys=True)

"""What the frozen program runs.

A single executable is two processes: the one that was started unpacks everything into a folder of its own in TMPDIR,
runs the program from there as its child, passes on signals, and removes the folder when the child has ended.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path

# The libssl that comes along looks where the system that it was built on keeps these; this one may be another.
CERTIFICATES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine, Arch, and our image
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",  # macOS, BSD
)
RUN_UNTIL_STOPPED = {"serve", "dev"}


def main() -> None:
    if not os.environ.keys() & {"SSL_CERT_FILE", "SSL_CERT_DIR"}:
        for path in CERTIFICATES:
            if Path(path).is_file():
                os.environ["SSL_CERT_FILE"] = path
                break
    folder = Path(getattr(sys, "_MEIPASS", ""))
    if folder.name.startswith("_MEI") and RUN_UNTIL_STOPPED.intersection(sys.argv[1:2]):
        _stand_behind_launcher(folder)
    from galaxy_mail.cli import main as galaxy_mail

    galaxy_mail(prog_name="galaxy-mail")


def _stand_behind_launcher(folder: Path) -> None:
    """Signals come from the launcher alone, and its end is ours, however it ends."""
    launcher = os.getppid()
    with suppress(OSError):
        # The terminal's Ctrl-C goes to a whole group of processes. Directly and passed on it would be two signals,
        # and the second one cuts off what the first one lets end.
        os.setsid()
    if sys.platform == "linux":
        import ctypes
        import signal

        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
        if os.getppid() != launcher:
            os.kill(os.getpid(), signal.SIGTERM)
    import atexit
    import shutil

    def remove_left() -> None:
        if os.getppid() != launcher:  # it was killed, and could not
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove_left)


if __name__ == "__main__":
    main()

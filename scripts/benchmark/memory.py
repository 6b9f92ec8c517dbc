"""The memory that a process holds, and the most that it held. Linux only (`/proc`)."""

import ctypes
import gc
import pathlib
import re
import threading


def resident_mib() -> float:
    """Memory that this process holds now."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) / 1024


def give_back_freed() -> None:
    """Returns what was freed to the system, so that it is not held any more."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


class HighWater:
    """The most memory that this process held inside the context, sampled every millisecond."""

    def __enter__(self) -> "HighWater":
        self.mib = resident_mib()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def _sample(self) -> None:
        while not self._done.wait(0.001):
            self.mib = max(self.mib, resident_mib())

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()

"""A runtime's process: a line `N` is answered with the times of N runs."""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
import time

import numpy as np


class Gone(Exception):
    """The runtime can't go on; the text says why."""


class Served:
    """Started, opened and run once, with what that took; `outputs` are that run's."""

    def __init__(self, command: str, out: pathlib.Path, names: list[str], threads: int, limit: float,
                 flush: bool):
        shutil.rmtree(out, ignore_errors=True)
        self.limit, self.late = limit, False
        self.said = tempfile.TemporaryFile("w+", errors="replace")
        one = {key: str(threads) for key in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "RTEN_NUM_THREADS")}
        env = os.environ | one | {"KILN_PEERS_OUTPUTS": "\n".join(names), "RUST_BACKTRACE": "0",
                                  "KILN_PEERS_FLUSH": "1" if flush else ""}
        start = time.perf_counter()
        try:
            self.process = subprocess.Popen(shlex.split(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                            stderr=self.said, text=True, env=env)
        except OSError as why:
            raise Gone(str(why)) from None
        words = self.answer(lambda words: words[:1] == ["ready"])
        self.start_ms = (time.perf_counter() - start) * 1e3
        facts = dict(word.split("=", 1) for word in words[1:] if "=" in word)
        self.open_ms = int(facts["open_ns"]) / 1e6 if "open_ns" in facts else None
        self.base_kb = int(facts.get("base_kb", 0))
        try:
            with np.load(out / "out.npz") as arrays:
                self.names, self.outputs = arrays.files, [arrays[key] for key in arrays.files]
        except (OSError, ValueError) as why:
            self.close()
            raise Gone(f"no answer to read: {why}") from None

    def added_mb(self) -> float | None:
        """What the system counted as resident at most so far, over what was resident before opening."""
        try:
            found = re.search(r"VmHWM:\s+(\d+)", pathlib.Path(f"/proc/{self.process.pid}/status").read_text())
        except OSError:
            return None
        return max(int(found[1]) - self.base_kb, 0) * 1024 / 1e6 if found and self.base_kb else None

    def answer(self, wanted) -> list[str]:
        """The words of the first line that is wanted; others are what a library prints."""
        timer = threading.Timer(self.limit, self.stop)
        timer.start()
        try:
            for line in self.process.stdout:
                if wanted(line.split()):
                    return line.split()
        finally:
            timer.cancel()
        self.process.wait()
        if self.late:
            raise Gone(f"no answer within {self.limit:.0f} s")
        self.said.seek(0)
        raise Gone(reason(self.said.read()) or f"exit {self.process.returncode}")

    def stop(self):
        self.late = True
        self.process.kill()

    def run(self, runs: int) -> list[int]:
        try:
            print(runs, file=self.process.stdin, flush=True)
        except BrokenPipeError:
            pass  # the answer's end says why
        words = self.answer(lambda words: words and all(word.isdigit() for word in words))
        return [int(word) for word in words]

    def close(self):
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.said.close()


def reason(text: str) -> str:
    """The line of a program's last words that tells most."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("note:", "stack backtrace"))]
    told = [line for line in lines if "rror" in line or "panicked" in line]
    if told and "panicked" in told[-1] and told[-1] != lines[-1]:
        return f"{told[-1]} {lines[-1]}"[-200:]
    return (lines[-1:] or [""])[0][-200:]

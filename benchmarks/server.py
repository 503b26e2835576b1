"""Server processes, their memory and processor time, and load by wrk."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.errors import Misconfigured

START_SECONDS = 60.0


@dataclass(frozen=True)
class Server:
    """A running server process."""

    url: str
    pid: int


@contextlib.contextmanager
def serving(folder: Path, database_url: str, *module: str) -> Iterator[Server]:
    """A server process on a free port until the block ends; by default the real one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HARMONIUM_")}
    environment |= {
        "HARMONIUM_DATABASE_URL": database_url,
        "HARMONIUM_PORT": str(port),
        "HARMONIUM_SPOOL_DIR": str(folder / "spool"),
        "HARMONIUM_LOG_FORMAT": "json",
    }
    command = [sys.executable, "-m", *(module or ("app", "serve", "--no-worker"))]
    log = folder / f"{port}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=file)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(f"{url}/health/ready"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Misconfigured(f"A server did not start: {log.read_text()[-2000:]}")
            time.sleep(0.05)
        yield Server(url, process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def memory_of(pid: int) -> dict[str, int]:
    """Bytes of a process: resident, its maximum, and private; 0 without /proc."""
    memory = {"resident": 0, "most_resident": 0, "private": 0}
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        values = {
            name: rest.split()[0] for name, _, rest in (line.partition(":") for line in lines) if rest.strip()
        }
        memory["resident"] = int(values["VmRSS"]) * 1024
        memory["most_resident"] = int(values["VmHWM"]) * 1024
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        memory["private"] = 1024 * sum(
            int(line.split()[1]) for line in rollup if line.startswith(("Private_Clean", "Private_Dirty"))
        )
    return memory


def processor_seconds(pid: int) -> float:
    """Processor time of all threads of a process; 0 without /proc."""
    with contextlib.suppress(OSError):
        # The name, in brackets, may hold anything; utime and stime are the 14th and
        # 15th field.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


@dataclass(frozen=True)
class Load:
    """One turn of wrk; latencies in milliseconds.

    `processor` is the server's own processor time in milliseconds a request: on a busy
    computer it says more than the clock.
    """

    per_second: float
    processor: float
    p50: float
    p99: float
    n_errors: int


_SCRIPT = """
local paths = {%(paths)s}
local bodies = {%(bodies)s}
local method = "%(method)s"
local headers = {["Authorization"] = "Bearer %(secret)s", ["Content-Type"] = "application/json"}
local counter = 0
local mean_delay = %(mean_delay)f
math.randomseed(1)
function request()
  counter = counter + 1
  local path = paths[counter %% #paths + 1]
  local body = nil
  if #bodies > 0 then body = bodies[counter %% #bodies + 1] end
  return wrk.format(method, path, headers, body)
end
if mean_delay > 0 then
  -- Poisson arrivals: each connection waits an exponential time between two requests, in milliseconds.
  function delay() return math.floor(-mean_delay * math.log(1 - math.random()) + 0.5) end
end
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format('\\nRESULT {"n": %%d, "us": %%d, "p50": %%f, "p99": %%f, "errors": %%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


@dataclass(frozen=True)
class Requests:
    """Requests in a circle: paths, and bodies where they are posted."""

    secret: str
    paths: Sequence[str]
    bodies: Sequence[str] = ()

    def drive(
        self, server: Server, folder: Path, seconds: int, connections: int, *, per_second: float = 0.0
    ) -> Load:
        """One turn of wrk: at full speed, or about `per_second` with random pauses."""
        mean_delay = 1000 * connections / per_second if per_second else 0.0
        script = folder / "load.lua"
        script.write_text(
            _SCRIPT
            % {
                "paths": ", ".join(json.dumps(path) for path in self.paths),
                "bodies": ", ".join(f"[==[{body}]==]" for body in self.bodies),
                "method": "POST" if self.bodies else "GET",
                "secret": self.secret,
                "mean_delay": mean_delay,
            }
        )
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), server.url]
        before = processor_seconds(server.pid)
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        used = processor_seconds(server.pid) - before
        (line,) = (line for line in done.stdout.splitlines() if line.startswith("RESULT "))
        result = json.loads(line.removeprefix("RESULT "))
        if result["errors"]:
            raise Misconfigured(f"{result['errors']} of {result['n']} requests failed: {done.stdout}")
        return Load(
            per_second=result["n"] / (result["us"] / 1e6),
            processor=1000 * used / max(result["n"], 1),
            p50=result["p50"] / 1000,
            p99=result["p99"] / 1000,
            n_errors=result["errors"],
        )

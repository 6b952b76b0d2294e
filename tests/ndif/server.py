"""A real NDIF server on loopback, for the tests: `python tests/ndif/server.py start | stop | status | logs`.

As a module: `Server().start()` in a process that ends it with `.stop()`, or by ending itself. One runs at a time.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import setup
from lock import Lock, ServerError, wait_until
from parts import Plan, choose_ports, fetch
from processes import family, holds, kill_all, lives, runner_sockets, serves_model

LEASH = Path(__file__).with_name("leash.py")
LONGEST_FOLDER = 40
"""Characters: Ray's socket files lie some 60 below it, and the system takes no more than 107."""

START_SECONDS = {"redis": 20, "store": 60, "ray": 120, "controller": 120, "api": 120}
STOP_SECONDS = 20


class Server:
    """One server. Its parts are stopped at the latest when the process of this object ends.

    Args:
        execution_seconds: How long the code of one request may run.
        environment: Variables for the server's programs that replace or add to our own choice.
        patience: Seconds to wait while another process has its server running.
    """

    def __init__(
        self, *, execution_seconds: float = 60, environment: Mapping[str, str] | None = None, patience: float = 0
    ) -> None:
        self.execution_seconds = execution_seconds
        self.overrides = dict(environment or {})
        self.patience = patience
        self.lock = Lock(setup.home() / "server.lock")
        self.leashes: dict[str, subprocess.Popen[bytes]] = {}
        self.sockets: set[Path] = set()
        self.plan: Plan | None = None

    @property
    def running(self) -> Plan:
        """The plan of the running server."""
        if self.plan is None:
            raise ServerError("the server is not running: call start() first")
        return self.plan

    @property
    def url(self) -> str:
        """The address that clients are to use."""
        return self.running.url("api")

    @property
    def folder(self) -> Path:
        """Logs, process ids and what the parts keep; it is removed when the server is stopped."""
        return self.running.folder

    @property
    def python(self) -> str:
        """The interpreter that the server runs in."""
        return self.running.python

    def start(self) -> Server:
        """Starts all parts and waits until requests are accepted; after a failure nothing is left running."""
        if self.plan is not None:
            raise ServerError("the server runs already")
        environment = setup.make()
        self.lock.take(self.patience)
        remove_folder(self.lock.read().get("folder"))
        ports = choose_ports()
        self.plan = Plan(new_folder(), environment, ports, self.execution_seconds, self.overrides)
        try:
            self.lock.write(folder=str(self.folder), url=self.url)
            self.start_parts()
        except BaseException:
            self.stop()
            raise
        return self

    def start_parts(self) -> None:
        """Starts the parts that need no other; then Ray's controller, while the API loads."""
        for name in ("logs", "pids"):
            (self.folder / name).mkdir()
        self.running.copy_code()
        for name in ("ray", "redis", "store"):
            self.start_part(name)
        for name in ("redis", "store", "ray"):
            self.await_part(name)
        self.start_part("controller")
        self.start_part("api")
        self.await_end("controller")
        self.await_part("api")

    def start_part(self, name: str) -> None:
        """Starts one part on a leash, which ends with this process."""
        command = [sys.executable, str(LEASH), str(os.getpid()), *self.running.commands()[name]]
        with (self.folder / "logs" / f"{name}.log").open("ab") as log:
            leash = subprocess.Popen(
                command,
                cwd=self.running.code,
                env=self.running.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.leashes[name] = leash
        (self.folder / "pids" / name).write_text(str(leash.pid))

    def await_part(self, name: str) -> None:
        """Waits until a part is ready; raises `ServerError` if it ends or takes too long."""
        ready = self.running.probes()[name]
        with self.with_log(name):
            wait_until(lambda: ready() or not self.is_alive(name), START_SECONDS[name])
            if not self.is_alive(name):
                raise TimeoutError(f"it ended with {self.leashes[name].returncode}")

    def await_end(self, name: str) -> None:
        """Waits until a part has finished; raises `ServerError` if it fails."""
        with self.with_log(name):
            wait_until(lambda: not self.is_alive(name), START_SECONDS[name])
            if self.leashes[name].returncode:
                raise TimeoutError(f"it ended with {self.leashes[name].returncode}")

    @contextlib.contextmanager
    def with_log(self, name: str) -> Iterator[None]:
        """Adds the last lines of a part's log to a failure."""
        try:
            yield
        except TimeoutError as error:
            raise ServerError(f"the server's part {name!r} did not start: {error}\n{self.logs(name)}") from None

    def is_alive(self, name: str) -> bool:
        """Whether a part still runs."""
        return name in self.leashes and self.leashes[name].poll() is None

    def stop(self) -> None:
        """Ends every process that we started and removes the folder."""
        if self.plan is None:
            return
        self.sockets |= runner_sockets(self.processes())
        for leash in self.leashes.values():
            with contextlib.suppress(ProcessLookupError):
                leash.terminate()
        for leash in self.leashes.values():
            leash.wait(STOP_SECONDS)
        for socket in self.sockets:
            socket.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.leashes, self.sockets, self.plan = {}, set(), None
        self.lock.release()

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def processes(self, name: str | None = None) -> list[psutil.Process]:
        """The living processes of one part, or of all, each part's leash first."""
        names = [name] if name else list(self.leashes)
        return [process for part in names if self.is_alive(part) for process in family(self.leashes[part].pid)]

    def pids(self) -> dict[str, list[int]]:
        """The process ids of every part that runs."""
        return {name: [process.pid for process in self.processes(name)] for name in self.leashes if self.is_alive(name)}

    def status(self) -> dict[str, Any]:
        """Which parts are alive, and the server's own status."""
        return describe(self.folder, self.url)

    def logs(self, name: str | None = None, lines: int = 40) -> str:
        """The last lines of one part's log, or of all logs and those of Ray's workers."""
        return read_logs(self.folder, name, lines)

    def kill(self, name: str) -> list[int]:
        """Kills a part ('api', 'store', 'redis', 'ray') outright, or only Ray's processes of such a name ('raylet')."""
        if name in self.leashes:
            killed = self.kill_processes(self.processes(name)[1:])
            self.leashes[name].wait(STOP_SECONDS)
            return killed
        return self.kill_in_ray(lambda process: process.name() == name, name)

    def kill_model_actor(self) -> list[int]:
        """Kills the processes that serve models, and the runners of requests that are not trusted."""
        return self.kill_in_ray(serves_model, "a model's actor")

    def kill_in_ray(self, condition: Callable[[psutil.Process], bool], what: str) -> list[int]:
        """Kills those of Ray's processes for which a condition holds; raises `ServerError` if there are none."""
        found = [process for process in self.processes("ray")[1:] if holds(condition, process)]
        if not found:
            raise ServerError(f"there is no process of {what} in the server")
        return self.kill_processes(found)

    def kill_processes(self, processes: list[psutil.Process]) -> list[int]:
        """Kills processes of the server, after noting their socket files, whose names only they know."""
        self.sockets |= runner_sockets(self.processes())
        return kill_all(processes)

    def start_api(self) -> None:
        """Starts the API again after it was killed, on the same port."""
        if self.is_alive("api"):
            raise ServerError("the API runs already")
        self.start_part("api")
        self.await_part("api")

    def refuse_store(self, times: int, method: str = "") -> None:
        """Makes the object store answer the next `times` requests (of one HTTP method, if given) with 503."""
        fresh = self.running.orders.with_suffix(".new")
        fresh.write_text(f"{times} {method}")
        fresh.replace(self.running.orders)

    def refusals_left(self) -> int:
        """How many requests the store will still refuse."""
        orders = self.running.orders
        return int(orders.read_text().split()[0]) if orders.exists() else 0


def new_folder() -> Path:
    """An empty folder with a path short enough for Ray."""
    usual = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="ndif-", dir=usual if len(usual) < LONGEST_FOLDER - 14 else "/tmp"))


def remove_folder(path: str | None) -> None:
    """Removes the folder of a server whose process was killed."""
    if path and Path(path).name.startswith("ndif-"):
        shutil.rmtree(path, ignore_errors=True)


def describe(folder: Path, url: str) -> dict[str, Any]:
    """A server's status, as seen from another process."""
    alive = {path.name: lives(int(path.read_text())) for path in (folder / "pids").iterdir()}
    alive.pop("controller", None)  # it only starts an actor
    try:
        with fetch(f"{url}/status", seconds=30) as answer:
            cluster = json.load(answer)
    except (OSError, ValueError) as error:
        cluster = {"error": str(error)}
    return {"up": all(alive.values()) and "error" not in cluster, "url": url, "parts": alive, "cluster": cluster}


def read_logs(folder: Path, name: str | None = None, lines: int = 40) -> str:
    """The tails of a server's logs, each under its name."""
    ours = sorted((folder / "logs").glob(f"{name or '*'}.log"))
    workers = sorted((folder / "ray" / "session_latest" / "logs").glob("worker-*")) if name in (None, "ray") else []
    tails = ((path, path.read_text(errors="replace").splitlines()[-lines:]) for path in (*ours, *workers))
    return "\n".join("\n".join([f"=== {path.name}", *tail]) for path, tail in tails if tail)


def hold() -> None:
    """Runs a server until this process is told to end."""
    signals = {signal.SIGTERM, signal.SIGINT}
    with Server() as server:
        print(server.url, flush=True)
        let_go_of_output()
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        signal.sigwait(signals)


def let_go_of_output() -> None:
    """Closes our output, so that its reader need not wait until this process ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())


def start() -> None:
    """Starts a server in a process of its own, which stays."""
    holder = subprocess.Popen(
        [sys.executable, __file__, "hold"], stdout=subprocess.PIPE, start_new_session=True, text=True
    )
    url = holder.stdout.readline().strip()
    if not url:
        sys.exit(holder.wait())
    print(url)


def stop() -> None:
    """Ends the server that `start` started."""
    lock = Lock(setup.home() / "server.lock")
    record = running_record(lock)
    if not record["command"].endswith(" hold"):
        sys.exit(f"that server ends with its own process; {lock.holder()}")
    os.kill(record["pid"], signal.SIGTERM)
    wait_until(lambda: not lock.is_held(), STOP_SECONDS)


def running_record(lock: Lock) -> dict[str, Any]:
    """What the running server wrote into its lock file."""
    if not lock.is_held():
        sys.exit("no server runs")
    return lock.read()


def main(action: str) -> None:
    """One of the four actions, or `hold`: `start` in the foreground."""
    if action in ("status", "logs"):
        record = running_record(Lock(setup.home() / "server.lock"))
        folder = Path(record["folder"])
        print(read_logs(folder) if action == "logs" else json.dumps(describe(folder, record["url"]), indent=2))
    elif action in ("start", "stop", "hold"):
        {"start": start, "stop": stop, "hold": hold}[action]()
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else "")
    except (ServerError, setup.SetupError) as error:
        sys.exit(str(error))

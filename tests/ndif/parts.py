"""The programs that make up an NDIF server: commands, ports, environment, and how to see that each is ready."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import socket
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

LOOPBACK = "127.0.0.1"
SERVED = ("actors.py", "api.py", "store.py")
"""The files of this folder that the server may import; it gets copies of them and nothing else of this repository."""

PORTS = range(20000, 22900)
"""Ray gives its workers 10002-19999 and its clients 23000-24000; the system's own choices begin at 32768."""
PORT_NAMES = (
    *("redis", "store", "api", "ray", "ray_client", "dashboard", "agent_http", "agent_grpc"),
    *("environment_agent", "node_manager", "object_manager", "metrics"),
)
MEMORY = 4_000_000_000
OBJECT_STORE_MEMORY = 200_000_000


def is_free(port: int) -> bool:
    """Whether no process listens on a port."""
    with socket.socket() as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def choose_ports() -> dict[str, int]:
    """A free port for each name, at random, so that two servers hardly ever pick the same."""
    candidates = iter(random.sample(PORTS, len(PORTS)))
    return {name: next(port for port in candidates if is_free(port)) for name in PORT_NAMES}


def answers(url: str) -> bool:
    """Whether an address answers without an error."""
    try:
        with fetch(url, seconds=2):
            return True
    except (OSError, ValueError):
        return False


def fetch(url: str, seconds: float) -> Any:
    """Opens an address on loopback, past any proxy of the user's."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=seconds)


def replies_to_ping(port: int) -> bool:
    """Whether redis answers on a port."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=2) as line:
            line.sendall(b"PING\r\n")
            return line.recv(16).startswith(b"+PONG")
    except OSError:
        return False


@dataclasses.dataclass(frozen=True)
class Plan:
    """Where a server runs and by which settings; all commands follow from it."""

    folder: Path
    environment_folder: Path
    ports: Mapping[str, int]
    execution_seconds: float
    overrides: Mapping[str, str]

    @property
    def python(self) -> str:
        """The interpreter of the server's own environment."""
        return str(self.environment_folder / "bin" / "python")

    @property
    def code(self) -> Path:
        """The folder that the server imports our files from, and in which its programs run."""
        return self.folder / "code"

    @property
    def orders(self) -> Path:
        """The file that tells the store how many requests to refuse."""
        return self.folder / "refuse"

    def url(self, name: str, scheme: str = "http") -> str:
        """The address of a port."""
        return f"{scheme}://{LOOPBACK}:{self.ports[name]}"

    def copy_code(self) -> None:
        """Gives the server its copies of our files."""
        self.code.mkdir()
        for name in SERVED:
            shutil.copy(Path(__file__).with_name(name), self.code)

    def environment(self) -> dict[str, str]:
        """All environment variables of every part; none is inherited from the user's shell."""
        system = {
            "PATH": f"{self.environment_folder / 'bin'}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(self.code),
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
        }
        return {**system, **self.ray_environment(), **self.ndif_environment(), **self.overrides}

    def ray_environment(self) -> dict[str, str]:
        """Ray uses only loopback and our folder, and is told of one GPU, because NDIF uses no node without one."""
        node = {"CPU": 8, "GPU": 1, "cuda_memory_bytes": MEMORY, "cpu_memory_bytes": MEMORY, "head": 10}
        return {
            "RAY_ADDRESS": f"{LOOPBACK}:{self.ports['ray']}",
            "RAY_OVERRIDE_RESOURCES": json.dumps(node),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else it replaces 127.0.0.1 by the host's outer address
            "RAY_TMPDIR": str(self.folder),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_DISABLE_IMPORT_WARNING": "1",
            "RAY_DEDUP_LOGS": "0",
            "RAY_memory_monitor_refresh_ms": "0",  # else a full machine makes it kill workers of ours
            "GRPC_ENABLE_FORK_SUPPORT": "0",
        }

    def ndif_environment(self) -> dict[str, str]:
        """Addresses, our actors, and a size that suits a small machine."""
        return {
            "NDIF_HOME": str(self.folder),
            "NDIF_REDIS_URL": self.url("redis", "redis"),
            "NDIF_OBJECT_STORE_URL": self.url("store"),
            "NDIF_OBJECT_STORE_ACCESS_KEY": "nobody",
            "NDIF_OBJECT_STORE_SECRET_KEY": "nothing",
            "NDIF_RAY_ADDRESS": self.url("ray_client", "ray"),
            "NDIF_API_URL": self.url("api"),
            "NDIF_API_PORT": str(self.ports["api"]),
            "NDIF_CONTROLLER_IMPORT_PATH": "actors.CPUControllerActor",
            "NDIF_MODEL_IMPORT_PATH": "actors.CPUModelActor",
            "NDIF_DEFAULT_DTYPE": "float32",
            "NDIF_DEFAULT_PADDING_BIAS": "0",
            "NDIF_DEFAULT_EXECUTION_TIMEOUT_SECONDS": str(self.execution_seconds),
            "NDIF_AUTOSCALING_MAX_REPLICAS": "1",
            "NDIF_SANDBOX_POOL_SIZE": "1",
            "NDIF_STATUS_TTL_S": "1",
        }

    def commands(self) -> dict[str, list[str]]:
        """The command of each part: modules, because scripts contain the folder in which the environment was made."""
        python = [self.python, "-m"]
        settings = "python:ndif.services.api.gunicorn_conf"
        return {
            "redis": ["redis-server", "--bind", LOOPBACK, "--port", str(self.ports["redis"]), "--save", ""],
            "store": [self.python, str(self.code / "store.py"), str(self.ports["store"]), str(self.orders)],
            "ray": [*python, "ray.scripts.scripts", "start", *self.ray_options()],
            "controller": [*python, "ndif.services.ray.deployments.controller.controller"],
            "api": [*python, "gunicorn", "-c", settings, "-b", f"{LOOPBACK}:{self.ports['api']}", "api:app"],
        }

    def ray_options(self) -> list[str]:
        """A head on loopback with a port of our choice for everything that has one."""
        ports = {
            "port": "ray",
            "ray-client-server-port": "ray_client",
            "dashboard-port": "dashboard",
            "dashboard-agent-listen-port": "agent_http",
            "dashboard-agent-grpc-port": "agent_grpc",
            "runtime-env-agent-port": "environment_agent",
            "node-manager-port": "node_manager",
            "object-manager-port": "object_manager",
            "metrics-export-port": "metrics",
        }
        fixed = ["--head", "--block", "--disable-usage-stats", f"--node-ip-address={LOOPBACK}"]
        dashboard = ["--include-dashboard=true", f"--dashboard-host={LOOPBACK}"]
        room = [f"--object-store-memory={OBJECT_STORE_MEMORY}"]
        return [*fixed, *dashboard, *room, *(f"--{option}={self.ports[name]}" for option, name in ports.items())]

    def probes(self) -> dict[str, Callable[[], bool]]:
        """For each part that keeps running, a function that says whether it is ready."""
        return {
            "redis": lambda: replies_to_ping(self.ports["redis"]),
            "store": lambda: answers(f"{self.url('store')}/moto-api/data.json"),
            "ray": lambda: answers(f"{self.url('dashboard')}/api/version"),
            "api": lambda: answers(f"{self.url('api')}/connected"),
        }

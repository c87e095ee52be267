"""HAProxy: least connections, active checks, retries of requests without a response."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from shardwise.hosting.balancers.adapter import Balancer, keep
from shardwise.hosting.launching import Launch

#: A request must fit in one buffer to be retried and to read its model.
BUFFER_BYTES = 1 << 20
KEY_VARIABLE = "SHARDWISE_API_KEY"


class HAProxy(Balancer):
    """HAProxy, with one backend per model and active health checks."""

    name: ClassVar[str] = "haproxy"
    program: ClassVar[str] = "haproxy"
    install: ClassVar[str] = "apt-get install haproxy"
    several_models: ClassVar[bool] = True
    checks_keys: ClassVar[bool] = True

    @classmethod
    def path(cls) -> str | None:
        """Path of the program, also where Debian installs it; None if absent."""
        # Debian installs it in a folder that is only on root's PATH
        found = super().path()
        usual = Path("/usr/sbin/haproxy")
        return found or (str(usual) if usual.exists() else None)

    @property
    def config_file(self) -> Path:
        """Configuration that HAProxy starts from."""
        return self.folder / "haproxy.cfg"

    @property
    def env(self) -> dict[str, str]:
        """Variable with the API key, so that no file contains it."""
        return {KEY_VARIABLE: self.front.key} if self.front.key else {}

    def argv(self, launches: Sequence[Launch]) -> list[str]:
        """Write the configuration and return the command line."""
        keep(self.config_file, self.config(launches))
        return [self.executable, "-W", "-f", str(self.config_file)]

    def apply(self, launches: Sequence[Launch], running: int) -> None:
        """Removed replicas are drained; new ones need a reload, which loses no requests."""
        wanted = {_server(launch): launch for launch in launches}
        present = set(re.findall(r"^ *server (\S+) ", self._read_config(), re.MULTILINE))
        if not set(wanted) <= present:
            self.argv(launches)
            os.kill(running, signal.SIGUSR2)
            self._wait_for_reload()
            return
        for line in self.command("show servers state").splitlines():
            fields = line.split()
            if len(fields) > 4 and fields[3] in present:
                state = "ready" if fields[3] in wanted else "drain"
                self.command(f"set server {fields[1]}/{fields[3]} state {state}")

    def command(self, text: str) -> str:
        """Return the answer of HAProxy's runtime API; "" if it does not answer."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(2.0)
            try:
                connection.connect(str(self.socket_file))
                connection.sendall(f"{text}\n".encode())
                parts = []
                while part := connection.recv(65536):
                    parts.append(part)
            except OSError:
                return ""
        return b"".join(parts).decode(errors="replace")

    def _read_config(self) -> str:
        return self.config_file.read_text(encoding="utf-8") if self.config_file.exists() else ""

    def _wait_for_reload(self) -> None:
        deadline = time.monotonic() + 5.0
        while time.monotonic() < deadline:
            time.sleep(0.1)
            if "Uptime_sec: 0" in self.command("show info"):
                return

    def config(self, launches: Sequence[Launch]) -> str:
        """Return HAProxy's configuration.

        `on-marked-down shutdown-sessions` is not used: when a replica dies, it would also end
        requests that no replica has begun to answer (10 of 640 in tests/hosting/test_builtin.py),
        which are otherwise sent to another replica. A hanging replica is killed by its supervisor,
        which closes its open streams and retries its other requests.

        Source: https://docs.haproxy.org/2.6/configuration.html
        """
        models = list(dict.fromkeys(launch.model.served_name for launch in launches))
        lines = [
            "global",
            "    maxconn 8192",
            f"    stats socket {self.socket_file} mode 600 level admin expose-fd listeners",
            f"    tune.bufsize {BUFFER_BYTES}",
            "    log stdout format raw local0 notice",
            "    hard-stop-after 1h",
            "defaults",
            "    mode http",
            "    log global",
            "    timeout connect 2s",
            # by default a check times out after its interval: two checks without an answer in 0.5 s
            # removed every replica of a busy machine, and clients got 503
            "    timeout check 2s",
            "    timeout client 1h",
            "    timeout server 1h",
            "    timeout http-request 30s",
            # otherwise streamed tokens wait for a full packet: median TTFT 205 ms instead of 23
            "    option http-no-delay",
            "    option http-buffer-request",
            # one connection per request in flight, so that draining can wait for them
            "    option http-server-close",
            "    option redispatch 1",
            "    retries 3",
            "    retry-on conn-failure empty-response 503",
            "frontend clients",
            f"    bind {self.front.host}:{self.front.port}",
        ]
        if self.front.key:
            # HAProxy expands this from the environment, so no file contains the key
            lines += [
                f'    acl with_key req.hdr(Authorization) -m str "Bearer ${{{KEY_VARIABLE}}}"',
                "    http-request return status 401 content-type application/json string "
                '\'{"error":{"message":"API key missing or wrong"}}\''
                " if !with_key !{ path /health }",
            ]
        if len(models) == 1:
            lines.append("    default_backend model0")
        else:
            lines += self._routes(models)
        for number, model in enumerate(models):
            lines += [f"backend model{number}", "    balance leastconn"]
            lines += ["    option httpchk GET /health"]
            lines += [
                # a replica that refuses connections is removed until its next good check
                f"    server {_server(launch)} {launch.host}:{launch.port} check inter 500ms "
                "fall 2 rise 1 observe layer4 error-limit 3 on-error mark-down"
                for launch in launches
                if launch.model.served_name == model
            ]
        return "\n".join(lines) + "\n"

    def _routes(self, models: list[str]) -> list[str]:
        ids = ",".join(
            f'{{\\"id\\":\\"{model}\\",\\"object\\":\\"model\\",\\"owned_by\\":\\"shardwise\\"}}'
            for model in models
        )
        return [
            "    http-request return status 200 content-type application/json string "
            f'"{{\\"object\\":\\"list\\",\\"data\\":[{ids}]}}" if {{ path /v1/models }}',
            "    http-request return status 200 if { path /health }",
            "    http-request set-var(txn.model) req.body,json_query('$.model')",
            *(
                f'    use_backend model{number} if {{ var(txn.model) -m str "{model}" }}'
                for number, model in enumerate(models)
            ),
            "    default_backend unknown_model",
            "backend unknown_model",
            "    http-request return status 404 content-type application/json string "
            '\'{"error":{"message":"no such model, or the request is over 1 MB",'
            '"type":"invalid_request_error"}}\'',
        ]


def _server(launch: Launch) -> str:
    return f"port{launch.port}"

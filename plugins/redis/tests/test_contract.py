"""The sink's guarantee, by the contract of sinks, against a real server."""

from __future__ import annotations

import atexit
from functools import cache

import redis
from tapeloom.events import decode
from tapeloom_testing.contract import SinkContract
from tapeloom_testing.services import RedisServer, free_port

PASSWORD = "fakeredisword777"


@cache
def server() -> RedisServer:
    """The server of all stores; it ends with the process."""
    found = RedisServer(appendfsync="always")
    found.__enter__()
    atexit.register(found.remove)
    return found


class TestRedis(SinkContract):
    sink = "redis"
    secrets = (PASSWORD,)

    def settings(self, folder):
        return {"url": server().url, "prefix": folder.name, "timeout": "30s"}

    def stored(self, folder):
        with redis.Redis(port=server().port) as client:
            found = [
                (*map(int, entry.split(b"-")), fields[b"event"])
                for key in client.scan_iter(f"{folder.name}:*", _type="stream")
                for entry, fields in client.xrange(key)
            ]
        return [decode(line) for _, _, line in sorted(found)]

    def failing(self, folder):
        password = folder / PASSWORD  # the contract looks for the secret in the settings
        password.write_text(PASSWORD)
        secret = {"file": str(password)}
        return {
            "no server": {"url": f"redis://127.0.0.1:{free_port()}/0"},
            "a wrong password": {"url": server().url, "username": "me", "password": secret},
        }

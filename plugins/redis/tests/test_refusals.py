"""What cannot work is refused with one sentence that names the remedy, and shows no secret."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import redis
from tapeloom import Secret
from tapeloom.errors import SinkError, SinkRefused, SinkUnavailable
from tapeloom.plugin import SinkBatch, SinkRun
from tapeloom_redis import RedisSink, Settings
from tapeloom_redis._server import describe, refuse_unusable
from tapeloom_testing.services import RedisServer, free_port

EPOCH = 1_700_000_000_000_000_000
PASSWORD = "fakeredisword777"


@pytest.fixture
def client(server):
    with redis.Redis(port=server.port, decode_responses=True) as found:
        yield found


@pytest.fixture
def own_server():
    """A server whose settings a test may change."""
    with RedisServer() as found, redis.Redis(port=found.port, decode_responses=True) as client:
        yield found, client


def refusal(sink, method="open") -> SinkError:
    """The error of `check`, or of opening and writing."""
    with pytest.raises(SinkError) as caught:
        if method == "check":
            sink.check()
        else:
            sink.open(SinkRun("store", EPOCH))
            sink.write(SinkBatch(EPOCH, 1, sink.events))
    sink.close()
    error = caught.value
    assert PASSWORD not in f"{error!r}{error}"
    assert re.fullmatch(r"[^\n]+\.", str(error))
    return error


def assert_refused(kind, pattern, settings, events, *, at_check=True):
    for method in ("check", "open") if at_check else ("open",):
        sink = RedisSink(settings)
        sink.events = events
        error = refusal(sink, method)
        assert type(error) is kind, method
        assert re.search(pattern, str(error)), f"{method}: {error}"


def user(client, name, *rules):
    client.execute_command("ACL", "SETUSER", name, "reset", "on", f">{PASSWORD}", *rules)


def as_user(server, name, **settings):
    return Settings(url=server.url, username=name, password=Secret(PASSWORD), **settings)


def test_a_server_that_does_not_run_is_unavailable(market):
    settings = Settings(url=f"redis://127.0.0.1:{free_port()}/0")
    assert_refused(
        SinkUnavailable,
        r"cannot be reached: .*Check that it runs, and the address",
        settings,
        market(1),
    )


def test_a_host_that_does_not_exist_is_unavailable(market):
    settings = Settings(url=Secret(f"redis://me:{PASSWORD}@no-such-host.invalid:6379/0"))
    assert_refused(
        SinkUnavailable, r"redis://no-such-host\.invalid:6379/0 cannot be", settings, market(1)
    )


def test_something_else_on_the_port_is_unavailable_after_the_timeout(own_server, market):
    server, _ = own_server
    server.pause()
    settings = Settings(url=server.url, timeout="50ms")
    assert_refused(SinkUnavailable, "did not answer in time.*raise timeout", settings, market(1))
    server.resume()


def test_a_wrong_password_is_refused(own_server, market):
    server, client = own_server
    client.config_set("requirepass", "another")
    wrong = Settings(url=server.url, password=Secret(PASSWORD))
    assert_refused(SinkRefused, "Set password, and username", wrong, market(1))
    assert_refused(SinkRefused, "Set password, and username", Settings(url=server.url), market(1))


def test_a_password_in_the_address_or_beside_it_is_accepted(client, server, market):
    user(client, "writer", "~*", "&*", "+@all")
    url = server.url.replace("redis://", f"redis://writer:{PASSWORD}@")
    for settings in (Settings(url=Secret(url)), as_user(server, "writer")):
        sink = RedisSink(settings)
        sink.open(SinkRun("store", EPOCH))
        sink.close()


@pytest.mark.parametrize(
    ("rules", "settings", "missing"),
    [
        (("~*", "&*", "+@all", "-hset"), {}, "HSET"),
        (("~*", "&*", "+@all", "-xadd"), {}, "XADD"),
        (("~*", "&*", "+@all", "-xtrim"), {"max_length": 10}, "XTRIM"),
        (("~*", "resetchannels", "+@all"), {"publish": True}, "PUBLISH"),
    ],
)
def test_a_missing_right_is_refused_before_anything_is_stored(
    rules, settings, missing, client, server, market
):
    user(client, "limited", *rules)
    pattern = rf"user 'limited' .* may not execute {missing} for tapeloom:\*\. Grant it"
    assert_refused(SinkRefused, pattern, as_user(server, "limited", **settings), market(5))

    assert client.keys("*") == []


def test_the_rights_of_the_readme_are_enough(client, server, market, write_all, stored):
    readme = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
    rules = re.search(r"^ACL SETUSER feed on (.*)$", readme, re.MULTILINE)[1].split()
    user(client, "feed", *(rule for rule in rules if not rule.startswith(">")))
    events = market(60)
    settings = as_user(server, "feed", max_length=1000, latest=True, publish=True)
    write_all(RedisSink(settings), events)

    assert stored() == events
    assert RedisSink(settings).check()


@pytest.mark.parametrize("rules", [("~other:*", "+@all"), ("~*", "+@all", "-eval", "-evalsha")])
def test_missing_keys_or_scripts_are_refused(rules, client, server, market):
    user(client, "limited", *rules)
    assert_refused(SinkRefused, "Grant the right|Grant it", as_user(server, "limited"), market(5))

    assert client.keys("*") == []


def test_a_right_that_is_taken_away_later_stops_the_sink_and_stores_nothing(client, server, market):
    user(client, "limited", "~*", "&*", "+@all")
    sink = RedisSink(as_user(server, "limited"))
    sink.open(SinkRun("store", EPOCH))
    client.execute_command("ACL", "SETUSER", "limited", "-evalsha")
    with pytest.raises(SinkRefused, match="Grant the right to the user with ACL SETUSER"):
        sink.write(SinkBatch(EPOCH, 1, market(5)))
    sink.close()

    assert client.keys("*") == []


@pytest.mark.parametrize(
    ("key", "kind"), [("tapeloom:cursor:store", "hash"), ("tapeloom:trade", "stream")]
)
def test_a_key_with_data_of_another_program_is_refused_and_left_alone(
    key, kind, client, server, market
):
    trades = [event for event in market(50) if event.type == "trade"]
    client.set(key, "mine")
    assert_refused(SinkRefused, "another prefix", Settings(url=server.url), trades, at_check=False)

    assert client.keys("*") == [key]
    assert client.get(key) == "mine"


def test_a_full_memory_is_unavailable_until_there_is_room(own_server, market, write_all):
    server, client = own_server
    client.config_set("maxmemory", "100kb")
    sink = RedisSink(Settings(url=server.url))
    sink.events = market(50)
    error = refusal(sink)
    client.config_set("maxmemory", "0")

    assert isinstance(error, SinkUnavailable)
    assert "Raise its maxmemory" in str(error)
    assert client.keys("*") == []


def test_a_server_that_cannot_write_to_its_disk_is_unavailable(own_server, market):
    server, client = own_server
    (server.folder / "dump.rdb").mkdir()  # so that it cannot be replaced by a new one
    (server.folder / "dump.rdb" / "x").touch()
    client.config_set("save", "3600 1")
    client.bgsave()
    while client.info("persistence")["rdb_bgsave_in_progress"]:
        pass
    sink = RedisSink(Settings(url=server.url))
    sink.events = market(5)
    error = refusal(sink)
    client.config_set("save", "")  # else it would try to save before it ends

    assert isinstance(error, SinkUnavailable)
    assert "cannot write to its disk: free space" in str(error)
    assert client.keys("*") == []


def test_a_replica_is_unavailable_and_its_primary_named(own_server, server, market):
    replica, client = own_server
    client.replicaof(server.host, server.port)
    assert_refused(
        SinkUnavailable,
        rf"is a replica.*primary into url: 127\.0\.0\.1:{server.port}",
        Settings(url=replica.url),
        market(1),
    )


class ClusterServer(RedisServer):
    def _command(self):
        return [*super()._command(), "--cluster-enabled", "yes"]


def test_a_cluster_is_refused(market):
    with ClusterServer() as server:
        assert_refused(
            SinkRefused, "Redis Cluster, which is not supported.*Use a single server",
            Settings(url=server.url), market(1),
        )  # fmt: skip


@pytest.mark.parametrize("version", ["4.0.14", "2.8.24", ""])
def test_a_server_without_streams_is_refused(version):
    with pytest.raises(SinkRefused, match=r"has no streams\. Use Redis 5\.0 or newer, or Valkey\."):
        refuse_unusable("redis://old", {"redis_version": version})


@pytest.mark.parametrize("version", ["5.0.0", "6.2.14", "8.6.1", "10.0"])
def test_a_server_with_streams_is_accepted(version):
    refuse_unusable("redis://new", {"redis_version": version, "role": "master"})


def test_deleted_scripts_are_loaded_again(client, server, market, write_all, stored):
    events = market(20)

    def sizes():
        for number in range(100):
            if number == 2:
                client.script_flush()
            yield 5

    counters = write_all(RedisSink(Settings(url=server.url)), events, sizes=sizes())

    assert counters["sink_retries"] == 1
    assert stored() == events


def test_check_tells_how_safe_the_data_is_and_stores_nothing(client, server, market, own_server):
    lines = RedisSink(Settings(url=server.url)).check()
    assert lines[0] == f"valkey {client.info()['valkey_version']} at {server.url}, master"
    assert "the append-only file is on (appendfsync always): what is stored survives" in lines[1]
    assert client.keys("*") == []

    unsafe, its_client = own_server
    its_client.config_set("maxmemory", "100mb")
    its_client.config_set("maxmemory-policy", "allkeys-lru")
    text = "\n".join(RedisSink(Settings(url=unsafe.url)).check())
    assert "the append-only file is off" in text
    assert "Set appendonly to yes" in text
    assert "maxmemory-policy is allkeys-lru: a full server deletes keys" in text


def test_check_says_what_it_may_not_read(client, server):
    user(client, "limited", "~*", "&*", "+@all", "-config")
    lines = RedisSink(as_user(server, "limited")).check()

    assert "appendfsync unknown" in lines[1]


@pytest.mark.parametrize(
    ("sync", "words"),
    [("everysec", "in the last two seconds may be lost"), ("no", "in the last half minute")],
)
def test_each_way_to_sync_has_its_meaning(sync, words):
    lines = describe("x", {"aof_enabled": 1}, {"appendfsync": sync})

    assert words in lines[1]

"""The Lua script that stores a batch.

A script, because Redis rolls nothing back: if a command between MULTI and EXEC is refused, such as an XADD
with an id that is too low, the others are executed all the same, and the cursor would move past an event
that is not stored. The script checks everything first and then writes; no other command of the server
runs in between. It also costs the client a third of the time of as many XADD commands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import frozen

__all__ = ["RIGHTS", "WRITE", "Written"]

#: Stores events, the cursor and the positions, or nothing. `Written.arguments` has the arguments. Returns
#: ``ok``; ``repeated`` and the stored number; ``newer``, a stream and its last id; or ``kind``, a key, the
#: type of its value and the expected one.
#: Numbers are compared as texts, because those of Lua have 53 bits.
WRITE = """
local epoch, first, last = ARGV[1], ARGV[2], ARGV[3]
local max_length, publishes = ARGV[4], ARGV[5] == '1'
local runs, positions, latest = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local streams = #KEYS - 2 - latest

local function is_less(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end

for i = 1, #KEYS do
  local kind = redis.call('TYPE', KEYS[i])['ok']
  local wanted = (i > 2 and i <= 2 + streams) and 'stream' or 'hash'
  if kind ~= 'none' and kind ~= wanted then return {'kind', KEYS[i], kind, wanted} end
end
local stored = redis.call('HGET', KEYS[1], epoch)
if stored and not is_less(stored, first) then return {'repeated', stored} end
for i = 3, 2 + streams do
  local exists = redis.call('TYPE', KEYS[i])['ok'] == 'stream'
  local info = exists and redis.call('XINFO', 'STREAM', KEYS[i]) or {}
  for j = 1, #info, 2 do
    if info[j] == 'last-generated-id' then
      local e, n = string.match(info[j + 1], '^(%d+)%-(%d+)$')
      if is_less(epoch, e) or (epoch == e and not is_less(n, first)) then
        return {'newer', KEYS[i], info[j + 1]}
      end
    end
  end
end

local at, head = 9, epoch .. '-'
for _ = 1, runs do
  local key, n, count = KEYS[2 + tonumber(ARGV[at])], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  for j = 1, count do
    local event = ARGV[at + 2 + j]
    redis.call('XADD', key, head .. string.format('%d', n), 'event', event)
    if publishes then redis.call('PUBLISH', key, event) end
    n = n + 1
  end
  at = at + 3 + count
end
if max_length ~= '0' then
  for i = 3, 2 + streams do redis.call('XTRIM', KEYS[i], 'MAXLEN', '~', max_length) end
end
redis.call('HSET', KEYS[1], epoch, last)
for _ = 1, positions do
  redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 1])
  at = at + 2
end
for i = 3 + streams, #KEYS do
  local count = tonumber(ARGV[at])
  for j = at + 1, at + 2 * count, 2 do redis.call('HSET', KEYS[i], ARGV[j], ARGV[j + 1]) end
  at = at + 1 + 2 * count
end
return {'ok'}
"""

#: Returns the commands that the user may not execute, as a text; KEYS are a hash and a stream, both may be
#: missing. Executes nothing. Servers before Redis 7 cannot tell; then it returns an empty text.
RIGHTS = """
if not redis.acl_check_cmd then return '' end
local refused = {}
local function try(...)
  if not redis.acl_check_cmd(...) then refused[#refused + 1] = (...) end
end
try('TYPE', KEYS[1])
try('HGET', KEYS[1], '1')
try('HSET', KEYS[1], '1', '1')
try('XINFO', 'STREAM', KEYS[2])
try('XADD', KEYS[2], '1-1', 'event', '')
if ARGV[1] == '1' then try('XTRIM', KEYS[2], 'MAXLEN', '1') end
if ARGV[2] == '1' then try('PUBLISH', KEYS[2], '') end
return table.concat(refused, ', ')
"""


@frozen
class Written:
    """What one call of `WRITE` stores."""

    epoch: int
    first: int  #: the number of the first event
    last: int  #: the number of the last event
    #: Events in a row that go to the same stream: the key, the number of the first, and the events.
    runs: Sequence[tuple[str, int, Sequence[bytes]]]
    positions: Mapping[str, str]
    #: The newest events by field, by key of the hash.
    latest: Mapping[str, Mapping[str, bytes]]

    def arguments(
        self, cursor: str, positions: str, max_length: int, *, publish: bool
    ) -> tuple[int, list[str | int | bytes]]:
        """Return the number of keys, and the keys and arguments of the script."""
        names = dict.fromkeys(key for key, _, _ in self.runs)
        streams = {key: index for index, key in enumerate(names, 1)}
        keys = [cursor, positions, *streams, *self.latest]
        counts = len(self.runs), len(self.positions), len(self.latest)
        found: list[str | int | bytes] = [*keys, self.epoch, self.first, self.last]
        found += [max_length, int(publish), *counts]
        for key, first, events in self.runs:
            found += (streams[key], first, len(events))
            found += events
        for name, text in self.positions.items():
            found += (name, text)
        for fields in self.latest.values():
            found.append(len(fields))
            for name, event in fields.items():
                found += (name, event)
        return len(keys), found

-- clock, version 1: the clock was set back, so what was stored before lies in the future.
--
-- KEYS[1]  qp:{pool}
--
-- Stored   qp:{pool}:states, :version   see state.lua; a record from the future begins now and rests as long as it was to
--          qp:{pool}:next:<group>       see ledger.lua; hints, so they are deleted
-- Returns  how many records were changed
--
-- Doing it twice, or without need, changes nothing else. Buckets and claims see it by themselves.

local prefix = KEYS[1]
local time = redis.call('TIME')
local clock = tonumber(time[1]) + tonumber(time[2]) / 1e6
local changed = 0
local states = redis.call('HGETALL', prefix .. ':states')
for n = 1, #states, 2 do
  local record = cmsgpack.unpack(states[n + 1])
  local by = record.since - clock
  if by > 0 then
    record.since = clock
    if record['until'] > 0 then record['until'] = record['until'] - by end
    redis.call('HSET', prefix .. ':states', states[n], cmsgpack.pack(record))
    changed = changed + 1
  end
end
local groups = {}
for _, member in ipairs(redis.call('SMEMBERS', prefix .. ':buckets')) do
  groups[cmsgpack.unpack(member)[2]] = true
end
for group in pairs(groups) do
  local latest = redis.call('ZRANGE', prefix .. ':next:' .. group, -1, -1, 'WITHSCORES')
  if latest[2] and tonumber(latest[2]) > clock + 60 then redis.call('DEL', prefix .. ':next:' .. group) end
end
if changed > 0 then redis.call('INCR', prefix .. ':version') end
return changed

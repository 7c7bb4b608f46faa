-- clock, version 2: the clock was set back, so what was stored before lies in the future.
--
-- KEYS[1]   qp:{pool}:states        see state.lua; a record from the future begins now and rests as long as it was to
-- KEYS[2]   qp:{pool}:version       see state.lua
-- KEYS[3..] qp:{pool}:next:<group>  see ledger/batch.lua, of each group that has a bucket; hints, so they are deleted
--
-- Returns  how many records were changed
--
-- Doing it twice, or without need, changes nothing else. Buckets and claims see it by themselves.

local states_key, version_key = KEYS[1], KEYS[2]
local time = redis.call('TIME')
local clock = tonumber(time[1]) + tonumber(time[2]) / 1e6
local changed = 0
local states = redis.call('HGETALL', states_key)
for n = 1, #states, 2 do
  local record = cmsgpack.unpack(states[n + 1])
  local by = record.since - clock
  if by > 0 then
    record.since = clock
    if record['until'] > 0 then record['until'] = record['until'] - by end
    redis.call('HSET', states_key, states[n], cmsgpack.pack(record))
    changed = changed + 1
  end
end
for n = 3, #KEYS do
  local latest = redis.call('ZRANGE', KEYS[n], -1, -1, 'WITHSCORES')
  if latest[2] and tonumber(latest[2]) > clock + 60 then redis.call('DEL', KEYS[n]) end
end
if changed > 0 then redis.call('INCR', version_key) end
return changed

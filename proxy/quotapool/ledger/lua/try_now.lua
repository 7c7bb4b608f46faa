-- try_now, version 2: resting keys and accounts may be tried now: there is money again, or the obstacle is gone.
--
-- KEYS[1]  qp:{pool}:states   see state.lua; `until` becomes now, `tries` 0
-- KEYS[2]  qp:{pool}:version  see state.lua
-- ARGV[1]  the state of the records to change: quarantined or suspect
-- ARGV[2]  ARGV[3]  authors whose records are left alone: operator, wallet
-- ARGV[4..]         fields: o/<organization>, a/<account>, k/<key>
--
-- Returns  how many were changed

local states_key, version_key = KEYS[1], KEYS[2]
local time = redis.call('TIME')
local clock = tonumber(time[1]) + tonumber(time[2]) / 1e6
local changed = 0
for n = 4, #ARGV do
  local raw = redis.call('HGET', states_key, ARGV[n])
  local record = raw and cmsgpack.unpack(raw)
  if record and record.state == ARGV[1] and record.by ~= ARGV[2] and record.by ~= ARGV[3] then
    record['until'], record.tries = clock, 0
    redis.call('HSET', states_key, ARGV[n], cmsgpack.pack(record))
    changed = changed + 1
  end
end
if changed > 0 then redis.call('INCR', version_key) end
return changed

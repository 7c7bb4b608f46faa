-- rouse, version 1: keys and accounts that rest may be tried now: there is money again, or what stood in the way has gone.
--
-- KEYS[1]  qp:{pool}
-- ARGV[1]  the state that counts: quarantined or suspect
-- ARGV[2]  ARGV[3]  whose records are left alone: operator, wallet
-- ARGV[4..]         fields: o/<organization>, a/<account>, k/<key>
--
-- Stored   qp:{pool}:states, :version   see state.lua; `until` becomes now, `tries` begin anew
-- Returns  how many were resting

local prefix = KEYS[1]
local time = redis.call('TIME')
local clock = tonumber(time[1]) + tonumber(time[2]) / 1e6
local roused = 0
for n = 4, #ARGV do
  local raw = redis.call('HGET', prefix .. ':states', ARGV[n])
  local record = raw and cmsgpack.unpack(raw)
  if record and record.state == ARGV[1] and record.by ~= ARGV[2] and record.by ~= ARGV[3] then
    record['until'], record.tries = clock, 0
    redis.call('HSET', prefix .. ':states', ARGV[n], cmsgpack.pack(record))
    roused = roused + 1
  end
end
if roused > 0 then redis.call('INCR', prefix .. ':version') end
return roused

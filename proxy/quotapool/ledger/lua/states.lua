-- states, version 3: an operator's word about many keys at once, by the rules of domain/states.py.
--
-- KEYS[1]  qp:{pool}:states   see state.lua
-- KEYS[2]  qp:{pool}:version  see state.lua; raised once
-- KEYS[3]  qp:{pool}:events   see state.lua
-- ARGV[1]  who: the operator's name, which the events have as `actor`; '' if it is not known
-- ARGV[2..] three for each change: field, msgpack of the new record or '', current fingerprint (see state.lua)
--
-- Returns  {how many were changed, version}

local states_key, version_key, events_key = KEYS[1], KEYS[2], KEYS[3]
local time = redis.call('TIME')
local clock = tonumber(time[1]) + tonumber(time[2]) / 1e6
local who, changed = ARGV[1], 0

local function tell(...)
  local event = {...}
  if who ~= '' then event[#event + 1], event[#event + 2] = 'actor', who end
  redis.call('XADD', events_key, 'MAXLEN', '~', '10000', '*', unpack(event))
end

-- The same word again (its first answer was lost, or the operator repeats it) is no change.
local function is_known(old, new)
  return old and old.state == new.state and old.reason == new.reason and old.message == new.message
    and old.by == new.by and old.fingerprint == new.fingerprint
end

for n = 2, #ARGV, 3 do
  local field, new_raw, print = ARGV[n], ARGV[n + 1], ARGV[n + 2]
  local old_raw = redis.call('HGET', states_key, field)
  local old = old_raw and cmsgpack.unpack(old_raw) or nil
  local of_organization = string.sub(field, 1, 2) == 'o/'
  if old and old.fingerprint ~= '' and old.fingerprint ~= print and not of_organization then old = nil end
  if new_raw ~= '' then
    local new = cmsgpack.unpack(new_raw)
    if not is_known(old, new) then
      new.since, new['until'] = clock, 0
      redis.call('HSET', states_key, field, cmsgpack.pack(new))
      tell('field', field, 'from', old and old.state or 'active', 'to', new.state, 'reason', new.reason, 'by', new.by,
        'status', new.status, 'message', new.message, 'request_id', new.request_id, 'at', tostring(clock),
        'kind', 'state')
      changed = changed + 1
    end
  elseif old_raw then
    redis.call('HDEL', states_key, field)
    tell('field', field, 'from', old and old.state or 'active', 'to', 'active', 'reason', old and old.reason or '',
      'by', 'operator', 'status', 0, 'message', '', 'request_id', '', 'at', tostring(clock), 'kind', 'state')
    changed = changed + 1
  end
end
local version = tonumber(redis.call('GET', version_key) or '0')
if changed > 0 then version = redis.call('INCR', version_key) end
return {changed, version}

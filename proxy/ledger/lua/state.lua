-- state, version 1: one change of a key's or an account's state, with the rules of domain/states.py.
--
-- KEYS[1]  qp:{pool}
-- ARGV[1]  field: a/<account> or k/<key>
-- ARGV[2]  msgpack of the new record without since/until, or '' for active again
--            {state, reason, tries, status, message, request_id, by, fingerprint}
-- ARGV[3]  rest_s: seconds until the first try (resting states), else 0
-- ARGV[4]  by: observed | operator (of the change to active, where ARGV[2] carries none)
-- ARGV[5]  fingerprint in force: a record with another one counts as absent
--
-- Stored   qp:{pool}:states   hash field -> msgpack record (with since, until)
--          qp:{pool}:version  counts changes; batches return it, so every worker hears of a change with its next request
--          qp:{pool}:events   stream of changes, the newest 10,000 or so
-- Returns  {changed 0|1, version, previous record or ''}

local prefix, field, new_raw, by, print = KEYS[1], ARGV[1], ARGV[2], ARGV[4], ARGV[5]
local RANK = {active = 0, suspect = 1, quarantined = 2, draining = 3, disabled = 3, removed = 4}
local time = redis.call('TIME')
local clock = tonumber(time[1]) + tonumber(time[2]) / 1e6

local old_raw = redis.call('HGET', prefix .. ':states', field)
local old = old_raw and cmsgpack.unpack(old_raw) or nil
if old and old.fingerprint ~= '' and old.fingerprint ~= print then old = nil end
local new = new_raw ~= '' and cmsgpack.unpack(new_raw) or nil

local function may_replace()
  if not old then return new ~= nil or old_raw ~= false end
  if by == 'operator' then return true end
  if old.by == 'operator' then return false end
  if not new then return old.state == 'quarantined' or old.state == 'suspect' end
  return RANK[new.state] >= RANK[old.state]
end

local version = tonumber(redis.call('GET', prefix .. ':version') or '0')
if not may_replace() then return {0, version, old_raw or ''} end

-- The same observation again (calls in flight when the key died) is no new event, and must not postpone the next try.
if new and old and old.state == new.state and old.by == new.by and old.reason == new.reason and new.by ~= 'operator' then
  return {0, version, old_raw}
end

if new then
  new.since = clock
  new['until'] = 0
  if tonumber(ARGV[3]) > 0 then new['until'] = clock + tonumber(ARGV[3]) end
  redis.call('HSET', prefix .. ':states', field, cmsgpack.pack(new))
else
  redis.call('HDEL', prefix .. ':states', field)
end
version = redis.call('INCR', prefix .. ':version')
redis.call('XADD', prefix .. ':events', 'MAXLEN', '~', '10000', '*',
  'field', field, 'from', old and old.state or 'active', 'to', new and new.state or 'active',
  'reason', new and new.reason or (old and old.reason or ''), 'by', new and new.by or by,
  'status', new and new.status or 0, 'message', new and new.message or '',
  'request_id', new and new.request_id or '', 'at', tostring(clock))
return {1, version, old_raw or ''}

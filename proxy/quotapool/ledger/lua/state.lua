-- state, version 3: one change of the state of a key, an account or an organisation, by the rules of domain/states.py.
--
-- KEYS[1]  qp:{pool}:states            hash field -> msgpack record (with since, until)
-- KEYS[2]  qp:{pool}:version           counts changes; batches return it, so a worker learns of one with its next request
-- KEYS[3]  qp:{pool}:events            stream of changes and alarms, the newest 10,000 or so; kind: state | brake | ...
-- KEYS[4]  qp:{pool}:stopped           how many removals were stopped, ever
-- only with a brake:
-- KEYS[5]  qp:{pool}:removals:<brake>  sorted set: field -> second of its removal, the last minute's
-- KEYS[6]  qp:{pool}:brake:<brake>     exists while that brake is on: until it has stopped nothing for ten minutes
-- ARGV[1]  field: o/<organization>, a/<account> or k/<key>
-- ARGV[2]  msgpack of the new record without since/until, or '' for active again
--            {state, reason, tries, status, message, request_id, by, fingerprint}
-- ARGV[3]  rest_s: seconds until the first try (resting states, and a removal that the brake may stop), else 0
-- ARGV[4]  by: observed | wallet | operator (of a change to active, for which ARGV[2] has none)
-- ARGV[5]  current fingerprint: a record with another one counts as absent (not an organisation's: it has many secrets)
-- ARGV[6]  brake: '' or the name of the brake that this removal must pass (domain/states.py, brake_of)
-- ARGV[7]  how many removals may pass that brake within a minute
--
-- Returns  {changed 0|1, version, previous record or '', brake 0 not asked or passed | 1 stopped | 2 stopped, the first}

local states_key, version_key, events_key, stopped_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local field, new_raw, by, print = ARGV[1], ARGV[2], ARGV[4], ARGV[5]
local brake, most = ARGV[6] or '', tonumber(ARGV[7] or '0')
local RANK = {active = 0, suspect = 1, quarantined = 2, draining = 3, disabled = 3, removed = 4}
local BRAKE_WINDOW_S, BRAKE_HOLDS_S = 60, 600
local time = redis.call('TIME')
local clock = tonumber(time[1]) + tonumber(time[2]) / 1e6

local old_raw = redis.call('HGET', states_key, field)
local old = old_raw and cmsgpack.unpack(old_raw) or nil
local of_organization = string.sub(field, 1, 2) == 'o/'
if old and old.fingerprint ~= '' and old.fingerprint ~= print and not of_organization then old = nil end
local new = new_raw ~= '' and cmsgpack.unpack(new_raw) or nil
local version = tonumber(redis.call('GET', version_key) or '0')

local function rests(record) return record.state == 'quarantined' or record.state == 'suspect' end

local function may_replace()
  if not old then return new ~= nil or old_raw ~= false end
  if by == 'operator' then return true end
  if old.by == 'operator' then return false end
  if old.by == 'wallet' and by ~= 'wallet' then return new ~= nil and RANK[new.state] > RANK[old.state] end
  if not new then return rests(old) and (by ~= 'wallet' or old.by == 'wallet') end
  return RANK[new.state] >= RANK[old.state]
end

-- The same observation again (calls in flight when the key failed) is no new event, and must not postpone the next try.
local function is_known()
  return new and old and old.state == new.state and old.by == new.by and old.reason == new.reason and new.by ~= 'operator'
end

local function tell(...)
  redis.call('XADD', events_key, 'MAXLEN', '~', '10000', '*', ...)
end

if not may_replace() or is_known() then return {0, version, old_raw or '', 0} end

local stopped = 0
if new and brake ~= '' then
  local removals, held = KEYS[5], KEYS[6]
  redis.call('ZREMRANGEBYSCORE', removals, '-inf', clock - BRAKE_WINDOW_S)
  if redis.call('EXISTS', held) == 1 or redis.call('ZCARD', removals) >= most then
    stopped = redis.call('SET', held, '1', 'NX', 'EX', BRAKE_HOLDS_S) and 2 or 1
    if stopped == 1 then redis.call('EXPIRE', held, BRAKE_HOLDS_S) end
    redis.call('INCR', stopped_key)
    new.state = 'suspect'
  else
    redis.call('ZADD', removals, clock, field)
    redis.call('EXPIRE', removals, BRAKE_WINDOW_S)
  end
  if stopped == 2 then
    tell('field', field, 'from', old and old.state or 'active', 'to', 'suspect', 'reason', new.reason, 'by', 'brake',
      'status', new.status, 'message', 'more than ' .. most .. ' removals within a minute: no more for now',
      'request_id', new.request_id, 'at', tostring(clock), 'kind', 'brake')
  end
  if stopped > 0 and (not may_replace() or is_known()) then return {0, version, old_raw or '', stopped} end
end

if new then
  new.since = clock
  new['until'] = 0
  if rests(new) and tonumber(ARGV[3]) > 0 then
    new['until'] = clock + tonumber(ARGV[3])
    if old and old.state == new.state and old.by == new.by and old.tries > 0 then -- a failed trial, whatever its reason
      new.tries, new['until'] = old.tries, math.max(new['until'], old['until'])
    end
  end
  redis.call('HSET', states_key, field, cmsgpack.pack(new))
else
  redis.call('HDEL', states_key, field)
end
version = redis.call('INCR', version_key)
tell('field', field, 'from', old and old.state or 'active', 'to', new and new.state or 'active',
  'reason', new and new.reason or (old and old.reason or ''), 'by', new and new.by or by,
  'status', new and new.status or 0, 'message', new and new.message or '',
  'request_id', new and new.request_id or '', 'at', tostring(clock), 'kind', 'state')
return {1, version, old_raw or '', stopped}

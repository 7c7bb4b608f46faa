-- cache, version 1: look-ups, new entries and leases of one process, as one atomic call.
--
-- KEYS[1]  qp:{pool:cache}      prefix; every other key carries the same hash tag, hence the same slot
-- KEYS[2..] are not read: a server that must be told beforehand gets all keys (cache/calls.py). That of the clock is read
--           before anything is written. No key is touched that the items do not name: what has to make room is returned,
--           and comes back as items to drop.
-- ARGV[1]  msgpack array of items, done in order
--   look    {1, name, max_age (-1: any), token ('': no lease is asked for)}
--           a lease that the same process has is given to it with the new token: it may not know of the first
--   put     {2, name, length, made, ends, charge, client, model, token, text}
--           text: the number of its ARGV; absent: it is in the store already; length: its bytes; charge: bytes that count for it against the pool's bound
--   release {3, name, token}
--   drop    {4, name, why, value}     why: 0 asked for; 1 expired; 2 to make room, if it was last used at `value`
--   renew   {5, {name, token, ...}}
--   reset   {6}                       there is no entry left: nothing is counted, even if somebody deleted a part of this
-- ARGV[2]  '' or the second that this clock should show by the process' own monotonic clock
-- ARGV[3]  '' or the epoch that came with its last answer
--          If it shows less, it was set back, unless another process has seen that before (then the epoch is another).
-- ARGV[4]  how this process' tokens begin
-- ARGV[5]  bytes that all entries may have
-- ARGV[6..] sealed texts
--
-- Stored
--   qp:{pool:cache}:e:<name>      the sealed text; ends by itself when the entry does
--   qp:{pool:cache}:l:<name>      a lease: its holder's token, for three seconds
--   qp:{pool:cache}:about         hash: name -> msgpack {made, ends, epoch, charge, length, client, model}
--   qp:{pool:cache}:used          sorted set: name -> millisecond of the last use
--   qp:{pool:cache}:ends          sorted set: name -> second from which on it is not served
--   qp:{pool:cache}:sums          hash: bytes and entries that there are, evicted and expired that there were
--   qp:{pool:cache}:shares        hash: <b|n><c|m>:<client or model> -> bytes or number of its entries
--   qp:{pool:cache}:clock         the latest second that this script has seen
--   qp:{pool:cache}:epoch         counts how often the clock was set back; entries of another epoch are not served, since
--                                 their seconds are of another clock
--
-- Returns  8 digits, the length of: msgpack {now, epoch, results, expired, oldest}; then the texts of what was found
--   results, a number for each item
--     look     0 or more: the length of its text; -1 not there; -2 the lease is yours; -3 another has it;
--              -4 ask again: this answer is full; -5 it is there, and too long for a script; -6 the store is full
--     put      1 kept; 0 try again: there is no room yet; -1 the store is full; -2 too late, or of another clock
--     drop     1 dropped; 0 it was not there, or the reason no longer holds
--     release, renew, reset    1
--   expired  {name, ...} to be dropped;  oldest  {name, used, ...} to be dropped if room is needed
--
-- If the store is full (OOM), nothing is written but deletions: the first write of a call is one that a full store
-- rejects, since after any other it would take them all.

local prefix = KEYS[1]
local about_key, used_key, ends_key = prefix .. ':about', prefix .. ':used', prefix .. ':ends'
local sums_key, shares_key = prefix .. ':sums', prefix .. ':shares'
local clock_key, epoch_key = prefix .. ':clock', prefix .. ':epoch'
local MADE, ENDS, EPOCH, CHARGE, LENGTH, CLIENT, MODEL = 1, 2, 3, 4, 5, 6, 7
local SLACK_S, LATE_S, LEASE_MS = 0.5, 60, 3000
local LONGEST, MOST = 65536, 262144
local MOST_EXPIRED, MOST_OLDEST, SPARE = 64, 64, 1 / 32

local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local known = redis.call('MGET', clock_key, epoch_key)
local shown, epoch = tonumber(known[1] or 0), tonumber(known[2] or 0)
local is_set_back = now < shown - SLACK_S
if ARGV[2] ~= '' and tonumber(ARGV[3]) == epoch and now < tonumber(ARGV[2]) - SLACK_S then is_set_back = true end

local writable
local function may_write()
  if writable == nil then
    local second = string.format('%.6f', (is_set_back or now > shown) and now or shown)
    local reply = redis.pcall('SET', clock_key, second)
    writable = not (type(reply) == 'table' and reply.err)
    if not writable and not string.find(reply.err, 'OOM', 1, true) then redis.call('SET', clock_key, second) end
  end
  return writable
end

if is_set_back then
  epoch = epoch + 1
  if may_write() then redis.call('SET', epoch_key, string.format('%.0f', epoch)) end
end

local sums, shares = {}, {}
local function add(to, field, by) to[field] = (to[field] or 0) + by end
local function count(about, sign)
  add(sums, 'bytes', sign * about[CHARGE])
  add(sums, 'entries', sign)
  add(shares, 'bc:' .. about[CLIENT], sign * about[CHARGE])
  add(shares, 'nc:' .. about[CLIENT], sign)
  add(shares, 'bm:' .. about[MODEL], sign * about[CHARGE])
  add(shares, 'nm:' .. about[MODEL], sign)
end

local stored
local function total()
  stored = stored or tonumber(redis.call('HGET', sums_key, 'bytes') or 0)
  return stored + (sums.bytes or 0)
end

-- What somebody else has written where our things are is as if it were not there: one such key must not fail all calls.
local function about_of(name)
  local raw = redis.call('HGET', about_key, name)
  if not raw then return nil end
  local is_sound, about = pcall(cmsgpack.unpack, raw)
  is_sound = is_sound and type(about) == 'table' and type(about[CLIENT]) == 'string' and type(about[MODEL]) == 'string'
  for n = MADE, LENGTH do is_sound = is_sound and type(about[n]) == 'number' end
  if is_sound then return about end
  may_write()
  redis.call('HDEL', about_key, name)
  return nil
end

local function text_at(key)
  local reply = redis.pcall('GET', key)
  if type(reply) ~= 'table' then return reply end
  may_write()
  redis.call('DEL', key)
  return nil
end

local function remove(name, about)
  may_write()
  redis.call('DEL', prefix .. ':e:' .. name)
  redis.call('HDEL', about_key, name)
  redis.call('ZREM', used_key, name)
  redis.call('ZREM', ends_key, name)
  count(about, -1)
end

local function release(name, token)
  local key = prefix .. ':l:' .. name
  if text_at(key) == token then
    may_write()
    redis.call('DEL', key)
  end
end

local texts, replied = {}, 0
local function look(name, max_age, token)
  local about = about_of(name)
  if about and (about[EPOCH] ~= epoch or about[MADE] > now + SLACK_S or now >= about[ENDS]) then
    remove(name, about)
    add(sums, 'expired', 1)
    about = nil
  end
  if about and (max_age < 0 or now - about[MADE] <= max_age) then
    local key, is_long, text = prefix .. ':e:' .. name, about[LENGTH] > LONGEST, nil
    if is_long then
      is_long = redis.call('EXISTS', key) == 1
    elseif replied > 0 and replied + about[LENGTH] > MOST then
      return -4
    else
      text = text_at(key)
    end
    if is_long or text then
      if may_write() then redis.call('ZADD', used_key, 'XX', math.floor(now * 1000), name) end
      if is_long then return -5 end
      texts[#texts + 1] = text
      replied = replied + #text
      return #text
    end
    remove(name, about)
  end
  if token == '' then return -1 end
  local key = prefix .. ':l:' .. name
  local holder = text_at(key)
  if holder and string.sub(holder, 1, #ARGV[4]) ~= ARGV[4] then return -3 end
  if not may_write() then return -6 end
  redis.call('SET', key, token, 'PX', LEASE_MS)
  return -2
end

local is_sweeping, wanted = false, 0
local function put(name, length, made, ends, charge, client, model, token, text)
  is_sweeping = true
  local result = 1
  if made > now + SLACK_S or made < now - LATE_S or ends <= now then
    result = -2
  elseif not may_write() then
    result = -1
  else
    local before, key, ms = about_of(name), prefix .. ':e:' .. name, math.ceil((ends - now) * 1000)
    if total() - (before and before[CHARGE] or 0) + charge > tonumber(ARGV[5]) then
      wanted = wanted + charge
      return 0
    end
    if text then
      redis.call('SET', key, ARGV[text], 'PX', ms)
    elseif redis.call('PEXPIRE', key, ms) == 0 then
      result = -2
    end
    if result == 1 then
      local about = {made, ends, epoch, charge, length, client, model}
      if before then count(before, -1) end
      count(about, 1)
      redis.call('HSET', about_key, name, cmsgpack.pack(about))
      redis.call('ZADD', used_key, math.floor(now * 1000), name)
      redis.call('ZADD', ends_key, string.format('%.6f', ends), name)
    end
  end
  if token ~= '' then release(name, token) end
  return result
end

local function drop(name, why, value)
  local about = about_of(name)
  if not about then -- of an index that somebody has damaged
    redis.call('ZREM', used_key, name)
    redis.call('ZREM', ends_key, name)
    return 0
  end
  if why == 1 and about[EPOCH] == epoch and now < about[ENDS] then return 0 end
  if why == 2 and redis.call('ZSCORE', used_key, name) ~= value then return 0 end
  remove(name, about)
  if why == 1 then add(sums, 'expired', 1) end
  if why == 2 then add(sums, 'evicted', 1) end
  return 1
end

local function renew(names)
  is_sweeping = true
  if not may_write() then return 1 end
  for n = 1, #names, 2 do
    local key, token = prefix .. ':l:' .. names[n], names[n + 1]
    local holder = text_at(key)
    if holder == token then
      redis.call('PEXPIRE', key, LEASE_MS)
    elseif not holder then
      redis.call('SET', key, token, 'PX', LEASE_MS)
    end
  end
  return 1
end

local function reset()
  if redis.call('HLEN', about_key) == 0 and may_write() then
    redis.call('HDEL', sums_key, 'bytes', 'entries')
    redis.call('DEL', shares_key, used_key, ends_key)
    sums.bytes, sums.entries, shares = nil, nil, {}
  end
  return 1
end

local results = {}
for n, item in ipairs(cmsgpack.unpack(ARGV[1])) do
  local kind = item[1]
  if kind == 1 then
    results[n] = look(item[2], item[3], item[4])
  elseif kind == 2 then
    results[n] = put(item[2], item[3], item[4], item[5], item[6], item[7], item[8], item[9], item[10])
  elseif kind == 3 then
    release(item[2], item[3])
    results[n] = 1
  elseif kind == 4 then
    results[n] = drop(item[2], item[3], item[4])
  elseif kind == 5 then
    results[n] = renew(item[2])
  else
    results[n] = reset()
  end
end

local expired, oldest = {}, {}
if is_sweeping then
  expired = redis.call('ZRANGE', ends_key, '-inf', string.format('%.6f', now), 'BYSCORE', 'LIMIT', 0, MOST_EXPIRED)
  local excess = total() + wanted - tonumber(ARGV[5]) * (1 - SPARE)
  if excess > 0 then
    local names = redis.call('ZRANGE', used_key, 0, MOST_OLDEST - 1, 'WITHSCORES')
    for n = 1, #names, 2 do
      if excess <= 0 then break end
      local about = about_of(names[n])
      excess = excess - (about and about[CHARGE] or 0)
      oldest[#oldest + 1], oldest[#oldest + 2] = names[n], names[n + 1]
    end
  end
end

for field, by in pairs(sums) do
  if by ~= 0 then redis.call('HINCRBY', sums_key, field, string.format('%.0f', by)) end
end
for field, by in pairs(shares) do
  if by ~= 0 and redis.call('HINCRBY', shares_key, field, string.format('%.0f', by)) <= 0 then
    redis.call('HDEL', shares_key, field)
  end
end

local head = cmsgpack.pack({now, epoch, results, expired, oldest})
return string.format('%08d', #head) .. head .. table.concat(texts)

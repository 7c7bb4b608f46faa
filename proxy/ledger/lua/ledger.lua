-- ledger, version 1: reserves and settles of one worker, as one atomic batch.
--
-- KEYS[1]  qp:{pool}            prefix; every other key of the pool carries the same hash tag, hence the same slot
-- ARGV[1]  batch id             repeated, the first answer is returned and nothing is done again
-- ARGV[2]  msgpack array of items, done in order; an item never raises, since Lua does not roll back
--   reserve {1, group, requests, tokens, images, may_try_resting, jitter, candidates}
--           candidates: {account, key, account_fingerprint, key_fingerprint, rpm, tpm, rpd, tpd, ipm}; -1: not written
--   settle  {2, group, account, rpm, tpm, rpd, tpd, ipm, give[5], cool_s, observed, base, headerless}
--           give: per dimension, positive gives back; cool_s: 0 or seconds to rest from now
--           observed: {{dimension 1..5, limit, remaining}, ...}; base: {level[5], charged[5]} as reserve answered
--           headerless: upstream answered well and named no limits: what nobody wrote is unbounded
--
-- Stored
--   qp:{pool}:b:<account>:<group>   msgpack {v, at, cool, level[5], learned[5], charged[5]}; -1: unknown; 1e18: unbounded
--   qp:{pool}:next:<group>          sorted set: account -> second at which a request like its last one fits
--   qp:{pool}:buckets               set of msgpack {account, group}: which buckets exist, for those who look at all
--   qp:{pool}:states                hash, see state.lua; read here
--   qp:{pool}:version, :epoch       see state.lua; read here
--   qp:{pool}:batch:<id>            the answer, kept for two minutes
--
-- Returns  msgpack {version, epoch, now, results}
--   reserve granted {1, candidate 1.., now, level[5], charged[5], is_trial, headroom}
--   reserve refused {0, wait_s (-1: never), dimension 0..5, hints, dead}
--           hints: accounts that may be ready now; dead: candidates (1..) whose key may not be used
--   settle          {2, headroom}
--
-- The arithmetic is domain/bucket.py's, which is its specification.

local prefix = KEYS[1]
local batch_key = prefix .. ':batch:' .. ARGV[1]
local before = redis.call('GET', batch_key)
if before then return before end

local UNBOUNDED = 1e18
local PERIOD = {60, 60, 86400, 86400, 60}
local GUESS = {500, 200000, UNBOUNDED, UNBOUNDED, UNBOUNDED}
local GUESSED_BURST = 10
local BREATH_S = 1.2
-- A bucket whose limits nobody named may be a caller's invention; it is not kept for long.
local BUCKET_TTL_MS, INVENTED_TTL_MS = 3 * 86400 * 1000, 600 * 1000

local time = redis.call('TIME')
local clock = tonumber(time[1]) + tonumber(time[2]) / 1e6

local function limit_of(b, written, i)
  local wrote, learned = written[i], b.learned[i]
  if wrote >= 0 then
    if learned >= 0 and learned < wrote then return learned end
    return wrote
  end
  if learned >= 0 then return learned end
  return GUESS[i]
end

local function depth(limit, i)
  return limit - limit / PERIOD[i] * BREATH_S
end

-- A store that lost its memory: a missing bucket is then not a full one. ''  no epoch yet; 'f:' fresh; 'r:<second>' reseeded.
local epoch = redis.call('GET', prefix .. ':epoch') or ''
local start_low = epoch == ''
if string.sub(epoch, 1, 2) == 'r:' then start_low = clock - tonumber(string.sub(epoch, 3)) < 120 end

local function load_bucket(key, written)
  local raw = redis.call('GET', key)
  local b
  if raw then
    b = cmsgpack.unpack(raw)
  else
    b = {v = 1, at = clock, cool = 0, level = {-UNBOUNDED, -UNBOUNDED, -UNBOUNDED, -UNBOUNDED, -UNBOUNDED},
         learned = {-1, -1, -1, -1, -1}, charged = {0, 0, 0, 0, 0}}
  end
  local elapsed = clock - b.at
  if elapsed < 0 then elapsed = 0 end
  b.at = b.at + elapsed
  for i = 1, 5 do
    local limit = limit_of(b, written, i)
    if limit >= UNBOUNDED then
      b.level[i] = -UNBOUNDED
    else
      local full = depth(limit, i)
      local level = b.level[i]
      if level <= -UNBOUNDED then
        level = full
        if i == 1 and written[i] < 0 and b.learned[i] < 0 and GUESSED_BURST < full then level = GUESSED_BURST end
        if start_low and PERIOD[i] <= 60 then level = 0 end
      else
        level = level + elapsed * limit / PERIOD[i]
        if level > full then level = full end
      end
      b.level[i] = level
    end
  end
  return b
end

local function save_bucket(key, b, account, group)
  local ttl = INVENTED_TTL_MS
  for i = 1, 5 do
    if b.learned[i] >= 0 then ttl = BUCKET_TTL_MS end
  end
  if not redis.call('SET', key, cmsgpack.pack(b), 'PX', ttl, 'GET') then
    redis.call('SADD', prefix .. ':buckets', cmsgpack.pack({account, group}))
  end
end

-- seconds until `cost` fits (-1: never), and the dimension that decides (0: a cool-down)
local function wait_for(b, cost, written)
  local longest, which = 0, 0
  if b.cool > b.at then longest = b.cool - b.at end
  for i = 1, 5 do
    local amount, level = cost[i], b.level[i]
    if amount > 0 and level > -UNBOUNDED then
      local limit = limit_of(b, written, i)
      if amount > limit then return -1, i end
      local need = depth(limit, i)
      if amount < need then need = amount end
      if level < need then
        local wait = (need - level) * PERIOD[i] / limit
        if wait > longest then longest, which = wait, i end
      end
    end
  end
  return longest, which
end

local function headroom(b, written)
  local least = 1
  for i = 1, 5 do
    if b.level[i] > -UNBOUNDED then
      local limit = limit_of(b, written, i)
      if limit <= 0 then return 0 end
      local share = b.level[i] / limit
      if share < least then least = share end
    end
  end
  if b.cool > b.at then return 0 end
  return least
end

local function five(item, from)
  return {item[from], item[from + 1], item[from + 2], item[from + 3], item[from + 4]}
end

-- may this key be used? 1 yes, 2 yes as a trial of a resting one, 0 no. Notes the trial, so that only one request tries.
local function usable(account, key, account_print, key_print, may_try)
  local raw = redis.call('HMGET', prefix .. ':states', 'a/' .. account, 'k/' .. key)
  local trial = 1
  for n = 1, 2 do
    if raw[n] then
      local record = cmsgpack.unpack(raw[n])
      local print = n == 1 and account_print or key_print
      if record.fingerprint == '' or record.fingerprint == print then
        if record.state ~= 'quarantined' and record.state ~= 'suspect' then return 0 end
        if not may_try or clock < record['until'] then return 0 end
        trial = 2
      end
    end
  end
  return trial
end

local function note_trial(account, key, jitter)
  for _, name in ipairs({'a/' .. account, 'k/' .. key}) do
    local raw = redis.call('HGET', prefix .. ':states', name)
    if raw then
      local record = cmsgpack.unpack(raw)
      record.tries = record.tries + 1
      local first = record.state == 'suspect' and 30 or 60
      local rest = math.min(first * 2 ^ math.min(record.tries, 16), 900)
      record['until'] = clock + rest * (1 + 0.25 * jitter)
      redis.call('HSET', prefix .. ':states', name, cmsgpack.pack(record))
      redis.call('INCR', prefix .. ':version')
    end
  end
end

local function reserve(item)
  local group, may_try, jitter, candidates = item[2], item[6], item[7], item[8]
  local cost = {item[3], item[4], item[3], item[4], item[5]}
  local next_key = prefix .. ':next:' .. group
  local soonest, dimension, dead, fits_somewhere = -1, 0, {}, false
  local asked = {}
  for n, c in ipairs(candidates) do
    local account, key, written = c[1], c[2], five(c, 5)
    asked[account] = true
    local use = usable(account, key, c[3], c[4], may_try)
    if use == 0 then
      dead[#dead + 1] = n
      redis.call('ZREM', next_key, account)
    else
      local bucket_key = prefix .. ':b:' .. account .. ':' .. group
      local b = load_bucket(bucket_key, written)
      local wait, which = wait_for(b, cost, written)
      if wait == 0 then
        for i = 1, 5 do
          if b.level[i] > -UNBOUNDED then b.level[i] = b.level[i] - cost[i] end
          b.charged[i] = b.charged[i] + cost[i]
        end
        save_bucket(bucket_key, b, account, group)
        if use == 2 then note_trial(account, key, jitter) end
        local again = wait_for(b, cost, written)
        redis.call('ZADD', next_key, b.at + math.max(0, again), account)
        return {1, n, b.at, b.level, b.charged, use == 2, headroom(b, written)}
      end
      if wait >= 0 then
        fits_somewhere = true
        redis.call('ZADD', next_key, b.at + wait, account)
        if soonest < 0 or wait < soonest then soonest, dimension = wait, which end
      elseif not fits_somewhere then
        dimension = which
      end
    end
  end
  -- Accounts that were not asked but may be ready sooner: the caller knows their keys and asks again.
  local hints = {}
  local ready = redis.call('ZRANGE', next_key, 0, 7, 'WITHSCORES')
  for r = 1, #ready, 2 do
    if not asked[ready[r]] then
      local wait = math.max(0, tonumber(ready[r + 1]) - clock)
      if wait == 0 then hints[#hints + 1] = ready[r] end
      if soonest < 0 or wait < soonest then soonest = wait end
    end
  end
  return {0, soonest, dimension, hints, dead}
end

local function settle(item)
  local group, account, written = item[2], item[3], five(item, 4)
  local give, cool_s, observed, base, headerless = item[9], item[10], item[11], item[12], item[13]
  local bucket_key = prefix .. ':b:' .. account .. ':' .. group
  local b = load_bucket(bucket_key, written)
  for _, o in ipairs(observed) do
    local i, limit, remaining = o[1], o[2], o[3]
    local guessed = written[i] < 0 and b.learned[i] < 0
    b.learned[i] = limit
    local since = math.max(0, b.charged[i] - base[2][i])
    if guessed or b.level[i] <= -UNBOUNDED or base[1][i] <= -UNBOUNDED then
      b.level[i] = math.min(depth(limit_of(b, written, i), i), remaining - since)
    elseif b.charged[i] >= base[2][i] and base[1][i] - since > remaining then
      b.level[i] = b.level[i] - (base[1][i] - since - remaining)
    end
  end
  for i = 1, 5 do
    if b.level[i] > -UNBOUNDED then b.level[i] = b.level[i] + give[i] end
    b.charged[i] = b.charged[i] - give[i]
  end
  if headerless then
    for i = 1, 5 do
      if b.learned[i] < 0 then b.learned[i] = UNBOUNDED end
    end
  end
  local next_key = prefix .. ':next:' .. group
  if cool_s > 0 then
    local cool = b.at + cool_s
    if cool > b.cool then b.cool = cool end
    redis.call('ZADD', next_key, 'GT', b.cool, account)
  end
  save_bucket(bucket_key, b, account, group)
  return {2, headroom(b, written)}
end

local results = {}
for n, item in ipairs(cmsgpack.unpack(ARGV[2])) do
  local done = item[1] == 1 and reserve or settle
  results[n] = done(item)
end
local version = redis.call('GET', prefix .. ':version') or '0'
local answer = cmsgpack.pack({tonumber(version), epoch, clock, results})
redis.call('SET', batch_key, answer, 'PX', 120000)
return answer

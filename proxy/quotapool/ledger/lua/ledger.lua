-- ledger, version 5: the reserves and settles of one worker, as one atomic batch.
--
-- KEYS[1]  qp:{pool}            prefix; every other key of the pool carries the same hash tag, hence the same slot
-- KEYS[2..] are not read: a server that must be told beforehand gets all keys (declared_keys.py). That of the batch is
--           read before anything is written, so a server that refuses it has done nothing.
-- ARGV[1]  batch id             repeated, the first answer is returned and nothing is done again
-- ARGV[2]  msgpack array of items, done in order; an item never raises, since Lua does not roll back
--   reserve {1, group, requests, tokens, images, may_try_resting, jitter, candidates, forget, leave, owner, arrived, alone}
--           candidates: {account, terms, names}
--           terms: msgpack {burst_s, rpm, tpm, rpd, tpd, ipm}; a limit of -1: not configured
--           names: msgpack {'a/<account>', account_fingerprint, 'k/<key>', key_fingerprint, 'o/<organization>' if known};
--                  both stay packed until they are needed: many accounts have the same terms, and few have a record
--           leave: share of each budget that must stay for others; owner: '' or who waits in the queue;
--           arrived: its second, earlier for a higher priority: earlier ones go first; nil: now
--           alone: only the candidates can serve it, so the wait does not depend on other accounts
--           forget: accounts hinted at before that the caller cannot use; they are hinted at again after another use
--   settle  {2, group, account, terms, back_requests, back_tokens, back_images, unused_tokens, cool_s, reserved_at,
--            evidence, event}
--           back_*: what upstream never charged; unused_tokens: reserved less used, negative if more was used
--           cool_s: 0, or seconds to rest from now
--           evidence: {{dimension 1..6, limit, remaining, kept, corrected, charged, recent, taught_kept, taught_corrected}, ...}
--             the last six as the reserve's moments; kept -1e18: was unbounded
--           event: 0 nothing, 1 headerless (success, no limits named), 2 slow_down, 3 refused for a shorter span
--   release {3, group, owner}     owner left the queue: what it claimed is free
--   pay     {4, group, account, terms, kept 1..6, corrected 1..6, cool_s}
--           what a worker took while it did not reach the store, by dimension, in both predictions
-- ARGV[3]  '' or the second that this clock should show by the worker's own monotonic clock
-- ARGV[4]  the second that it showed with the worker's last answer
--          If it shows more than it should, it was set forward meanwhile, unless that is known, or another worker, for
--          which there was no such step, says otherwise.
-- ARGV[5]  '' or the id of a batch whose answer has come: only a command that was late on its way may ask for it again
--
-- Stored
--   qp:{pool}:b3:<length of account>:<account>:<group>
--                                   54 msgpack numbers: the fields of domain/bucket.py's Bucket, in the order given below;
--                                   -1e18: no level (unbounded); learned -1: unknown, 1e18: upstream names none
--   qp:{pool}:next:<group>          sorted set: account -> second at which a request like its last one fits;
--                                   forgotten ten minutes after the group's last reserve
--   qp:{pool}:claims:<group>        hash: account -> msgpack {owner, arrived, until}: who waits and gets its next room;
--                                   later requests do not use that account, in any replica
--   qp:{pool}:buckets               set of msgpack {account, group}: which buckets exist, for metrics and alerts
--   qp:{pool}:states                hash, see state.lua; read here
--   qp:{pool}:version, :epoch       see state.lua; read here
--   qp:{pool}:steps                 msgpack {{second, by}, ...}: when the clock was set forward, and by how much. Seconds
--                                   stored before move by that when they are used. (If it was set back, what is stored
--                                   lies in the future, and nothing else is needed to see it.)
--   qp:{pool}:batch:<id>            the answer, kept for two minutes, or for five seconds once it has come
--
-- Returns  msgpack {version, epoch, now, results}
--   reserve granted {1, candidate 1.., now, headroom, is_trial, moments}
--           moments: flat, {dimension, kept, corrected, charged, recent, taught_kept, taught_corrected, learned}
--             for each bounded dimension
--   reserve refused {0, wait_s (-1: never), dimension 0..6, hints, dead, refill_s}
--           hints: accounts that may be ready now; dead: candidates (1..) whose key may not be used
--           refill_s: how long the account that decides takes to gain this cost once more; 0: unknown
--   settle          {2, headroom}
--   release         {3}
--   pay             {4}
--
-- The arithmetic and its constants are domain/bucket.py's, which is its specification.

local unpack = table.unpack or unpack -- where it is in Lua 5.4, and in 5.1
local prefix = KEYS[1]
local batch_key = prefix .. ':batch:' .. ARGV[1]
local before = redis.call('GET', batch_key)
if before then return before end

local UNBOUNDED = 1e18
local N = 6
-- A bucket is 54 numbers: six of its own, and behind each of these six more, by dimension.
local AT, COOL, LEAN, SEEN, BURST_S, RAMP = 1, 2, 3, 4, 5, 6
local KEPT, CORRECTED, LEARNED, CHARGED = 6, 12, 18, 24
local RECENT, MARGIN, TAUGHT_KEPT, TAUGHT_CORRECTED = 30, 36, 42, 48
local PERIOD = {60, 60, 86400, 86400, 60, 60}
local GUESS = {500, 200000, UNBOUNDED, UNBOUNDED, UNBOUNDED, UNBOUNDED}
local IS_TOKENS = {false, true, false, true, false, true}
local GUESSED_BURST, BREATH_S, REORDER_S, RAISE, LEARN, TRUSTED = 3, 1.2, 0.3, 0.2, 0.1, -0.02
local WIDEST_MARGIN, MARGIN_DECAY_S, SHORTEST_BURST_S, BURST_GROWTH_S = 0.2, 600, 1, 600
local SLOWED, SLOWEST, RAMP_GROWTH = 0.7, 0.05, 1.5 ^ (1 / 900)
-- A bucket without any known limit may be of a model that a caller invented; it is not kept for long.
local BUCKET_TTL_MS, INVENTED_TTL_MS = 3 * 86400 * 1000, 600 * 1000
local STEP_S, MOST_STEPS, STEPS_TTL_MS = 2, 8, 86400 * 1000
-- An account that has been ready for this long while callers were refused has left the pool: nobody uses it.
local UNHEARD_S = 30

local time = redis.call('TIME')
local clock = tonumber(time[1]) + tonumber(time[2]) / 1e6
local min, max, abs, exp, ceil = math.min, math.max, math.abs, math.exp, math.ceil

-- If the store lost its data, a missing bucket is not a full one. '' no epoch yet; 'f:…' fresh; 'r:<second>' reseeded.
local known = redis.call('MGET', prefix .. ':epoch', prefix .. ':version', prefix .. ':steps')
local epoch, version = known[1] or '', known[2] or '0'
local start_low = epoch == ''
if string.sub(epoch, 1, 2) == 'r:' then start_low = abs(clock - tonumber(string.sub(epoch, 3))) < 120 end

local function steps_of(raw)
  local steps, expected, last = raw and cmsgpack.unpack(raw) or {}, tonumber(ARGV[3]), tonumber(ARGV[4])
  local ahead, before, is_known = expected and clock - expected or 0, #steps, false
  for n = before, 1, -1 do
    local second = steps[n][1]
    if second > clock then -- it was set back since, and no second is stored any more that this step is about
      table.remove(steps, n)
    elseif expected and second > last then
      if abs(ahead) < STEP_S then table.remove(steps, n) else is_known = true end
    end
  end
  local is_new = ahead >= STEP_S and not is_known
  if is_new then
    steps[#steps + 1] = {clock, ahead}
    if #steps > MOST_STEPS then table.remove(steps, 1) end
  end
  if is_new or #steps ~= before then
    redis.call('SET', prefix .. ':steps', cmsgpack.pack(steps), 'PX', STEPS_TTL_MS)
  end
  return steps
end
local steps = {}
if known[3] or (ARGV[3] ~= '' and clock - ARGV[3] >= STEP_S) then steps = steps_of(known[3]) end

local function limit_of(b, written, i)
  local wrote, learned = written[i], b[LEARNED + i]
  if wrote >= 0 then
    if learned >= 0 and learned < wrote then return learned end
    return wrote
  end
  if learned >= 0 then return learned end
  return GUESS[i]
end

-- Terms are unpacked once a batch; so is what follows from them together with what upstream named: of each dimension that
-- has a limit (`bounded`) the limit, what it holds when full, and what it gains a second. Most accounts are alike.
local all_terms = {}
local function terms_of(packed)
  local terms = all_terms[packed]
  if not terms then
    local unpacked = cmsgpack.unpack(packed)
    terms = {
      burst_s = unpacked[1],
      written = {unpacked[2], unpacked[3], unpacked[4], unpacked[5], unpacked[6], -1},
      usual = false,
    }
    all_terms[packed] = terms
  end
  return terms
end

local function fits(room, b)
  local learned = room.learned
  for i = 1, N do
    if learned[i] ~= b[LEARNED + i] then return false end
  end
  return true
end

local function room_of(b, terms)
  local ramp, burst_s = b[RAMP], b[BURST_S]
  local is_usual = ramp == 1 and burst_s == 60
  if is_usual and terms.usual and fits(terms.usual, b) then return terms.usual end
  local written = terms.written
  local limits, fulls, rates, bounded, learned = {}, {}, {}, {}, {}
  local span = min(terms.burst_s, burst_s, 60)
  local span_s, day_s = max(span - BREATH_S, span * 0.5), 86400 - BREATH_S
  for i = 1, N do
    local limit = limit_of(b, written, i)
    learned[i] = b[LEARNED + i]
    if limit < UNBOUNDED then
      bounded[#bounded + 1], limits[i] = i, limit
      if PERIOD[i] <= 60 then
        fulls[i], rates[i] = limit * ramp * span_s / 60, limit / 60 * ramp
      else
        fulls[i], rates[i] = limit * day_s / 86400, limit / 86400
      end
    end
  end
  local room = {limits = limits, fulls = fulls, rates = rates, bounded = bounded, learned = learned}
  if is_usual then terms.usual = room end
  return room
end

-- What this batch knows of an account: its bucket's numbers (b), the terms and the room. Read once and written once,
-- however many items concern it.
local accounts = {} -- by the bucket's key; and all in the order in which they came
local opened = {}

local function weigh(h)
  h.room = room_of(h.b, h.terms)
end

local function move(b, seconds)
  b[AT] = b[AT] + seconds
  if b[COOL] > 0 then b[COOL] = b[COOL] + seconds end
  if b[SEEN] > 0 then b[SEEN] = b[SEEN] + seconds end
end

local function refill(h)
  local b, written = h.b, h.terms.written
  if b[AT] > clock then move(b, clock - b[AT]) end
  local elapsed = clock - b[AT]
  b[AT] = clock
  if elapsed > 0 then
    if b[RAMP] < 1 then b[RAMP] = min(1, b[RAMP] * RAMP_GROWTH ^ elapsed) end
    if b[BURST_S] < 60 then b[BURST_S] = min(60, b[BURST_S] * 2 ^ (elapsed / BURST_GROWTH_S)) end
    local fade, narrow = exp(-elapsed / REORDER_S), exp(-elapsed / MARGIN_DECAY_S)
    for i = 1, N do
      if b[RECENT + i] ~= 0 then b[RECENT + i] = b[RECENT + i] * fade end
      if b[MARGIN + i] ~= 0 then b[MARGIN + i] = b[MARGIN + i] * narrow end
    end
  end
  weigh(h)
  local fulls, rates = h.room.fulls, h.room.rates
  for i = 1, N do
    local full = fulls[i]
    if not full then
      b[KEPT + i], b[CORRECTED + i] = -UNBOUNDED, -UNBOUNDED
    elseif b[KEPT + i] <= -UNBOUNDED then
      local start = full
      if i == 1 and written[i] < 0 and b[LEARNED + i] < 0 then start = min(full, GUESSED_BURST) end
      if start_low and PERIOD[i] <= 60 then start = 0 end
      b[KEPT + i], b[CORRECTED + i] = start, start
    else
      local gained = elapsed * rates[i]
      b[KEPT + i] = min(full, b[KEPT + i] + gained)
      b[CORRECTED + i] = min(full, b[CORRECTED + i] + gained)
    end
  end
end

local function open_bucket(account, group, packed_terms)
  local key, terms = prefix .. ':b3:' .. #account .. ':' .. account .. ':' .. group, terms_of(packed_terms)
  local h = accounts[key]
  if h then
    if h.terms == terms then
      -- No time has passed in this batch: only what came back may have made it too full.
      local b, fulls = h.b, h.room.fulls
      for _, i in ipairs(h.room.bounded) do
        local full = fulls[i]
        if b[KEPT + i] > full then b[KEPT + i] = full end
        if b[CORRECTED + i] > full then b[CORRECTED + i] = full end
      end
    else
      h.terms = terms
      refill(h)
    end
    return h
  end
  local raw = redis.call('GET', key)
  local b
  if raw then
    b = {cmsgpack.unpack(raw)}
  else
    b = {clock, 0, 0, 0, 60, 1}
    for i = 1, N do
      b[KEPT + i], b[CORRECTED + i], b[LEARNED + i], b[CHARGED + i] = -UNBOUNDED, -UNBOUNDED, -1, 0
      b[RECENT + i], b[MARGIN + i], b[TAUGHT_KEPT + i], b[TAUGHT_CORRECTED + i] = 0, 0, 0, 0
    end
  end
  for _, step in ipairs(steps) do
    if b[AT] < step[1] then move(b, step[2]) end
  end
  h = {
    b = b, key = key, account = account, group = group, terms = terms, room = false,
    is_new = not raw, changed = false,
    -- A refused request saves nothing; then time would stand still until the clock shows what it showed before.
    was_set_back = b[AT] > clock,
  }
  accounts[key] = h
  opened[#opened + 1] = h
  refill(h)
  return h
end

local function save_buckets()
  for _, h in ipairs(opened) do
    local b = h.b
    if h.changed then
      local ttl = INVENTED_TTL_MS
      for i = 1, N do
        if b[LEARNED + i] >= 0 then ttl = BUCKET_TTL_MS end
      end
      redis.call('SET', h.key, cmsgpack.pack(unpack(b, 1, 54)), 'PX', ttl)
      if h.is_new then redis.call('SADD', prefix .. ':buckets', cmsgpack.pack({h.account, h.group})) end
    elseif h.was_set_back then
      redis.call('SET', h.key, cmsgpack.pack(unpack(b, 1, 54)), 'KEEPTTL')
    end
  end
end

local function corrected_leads(b, i)
  if abs(b[LEAN]) > -TRUSTED then return b[LEAN] < TRUSTED end
  return b[CORRECTED + i] < b[KEPT + i]
end

local function level_of(b, i)
  if corrected_leads(b, i) then return b[CORRECTED + i] end
  return b[KEPT + i]
end

-- seconds until `cost` fits (-1: never), and the dimension that decides (0: a cool-down)
local function wait_for(h, cost, leave)
  local b, room, written = h.b, h.room, h.terms.written
  local limits, fulls = room.limits, room.fulls
  local longest, which = max(0, b[COOL] - b[AT]), 0
  for _, i in ipairs(room.bounded) do
    local amount = cost[i]
    if amount > 0 then
      if amount > limits[i] then return -1, i end
      local full, level = fulls[i], level_of(b, i)
      local stays = (written[i] < 0 and b[LEARNED + i] < 0) and 0 or leave * full -- nothing of a guess
      local need = min(amount + b[MARGIN + i] + stays, full)
      if level < need then
        local wait = (need - level) / room.rates[i]
        if wait > longest then longest, which = wait, i end
      end
    end
  end
  return longest, which
end

local function headroom(h)
  local b, room, written = h.b, h.room, h.terms.written
  if b[COOL] > b[AT] then return 0 end
  local least = 1
  for _, i in ipairs(room.bounded) do
    if written[i] >= 0 or b[LEARNED + i] >= 0 then -- a guess is no reason to skip an account
      local limit = room.limits[i]
      local share = limit > 0 and level_of(b, i) / limit or 0
      if share < least then least = share end
    end
  end
  return least
end

local function add(b, i, to_kept, to_corrected)
  if b[KEPT + i] > -UNBOUNDED then
    b[KEPT + i] = b[KEPT + i] + to_kept
    b[CORRECTED + i] = b[CORRECTED + i] + to_corrected
  end
end

-- In most pools no key has a record, and then there is nothing to look up for each of them.
local all_active = redis.call('EXISTS', prefix .. ':states') == 0

-- may this key be used? 1 yes, 2 yes as a trial of a resting one, 0 no
-- (an organisation's record applies whichever of its secrets it was seen with; until 0: it is never tried)
local function usable(c, may_try)
  if all_active then return 1 end
  local names, raw = cmsgpack.unpack(c[3]), nil
  if names[5] then
    raw = redis.call('HMGET', prefix .. ':states', names[1], names[3], names[5])
  else
    raw = redis.call('HMGET', prefix .. ':states', names[1], names[3])
  end
  local use = 1
  for n = 1, 3 do
    if raw[n] then
      local record = cmsgpack.unpack(raw[n])
      local print = n == 1 and names[2] or names[4]
      if n == 3 or record.fingerprint == '' or record.fingerprint == print then
        if record.state ~= 'quarantined' and record.state ~= 'suspect' then return 0 end
        if not may_try or record['until'] == 0 or clock < record['until'] then return 0 end
        use = 2
      end
    end
  end
  return use
end

-- Only one request tries: the next try is moved before this one has answered.
local function note_trial(c, jitter)
  local names = cmsgpack.unpack(c[3])
  for _, name in ipairs({names[1], names[3], names[5]}) do
    local raw = redis.call('HGET', prefix .. ':states', name)
    local record = raw and cmsgpack.unpack(raw)
    if record and record['until'] > 0 then
      record.tries = record.tries + 1
      local first = record.state == 'suspect' and 30 or 60
      record['until'] = clock + min(first * 2 ^ min(record.tries, 16), 900) * (1 + 0.25 * jitter)
      redis.call('HSET', prefix .. ':states', name, cmsgpack.pack(record))
      version = redis.call('INCR', prefix .. ':version')
    end
  end
end

local function moments(b)
  local flat = {}
  for i = 1, N do
    if b[KEPT + i] > -UNBOUNDED then
      local n = #flat
      flat[n + 1], flat[n + 2], flat[n + 3] = i, b[KEPT + i], b[CORRECTED + i]
      flat[n + 4], flat[n + 5], flat[n + 6] = b[CHARGED + i], b[RECENT + i], b[TAUGHT_KEPT + i]
      flat[n + 7], flat[n + 8] = b[TAUGHT_CORRECTED + i], b[LEARNED + i]
    end
  end
  return flat
end

local CLAIM_S, CLAIM_GRACE_S = 1, 0.15

-- the claims that keep this caller from an account, and its own; stale ones are deleted, and those from before the clock
-- was set back
local unclaimed = {} -- keys of which this batch knows that nobody claims anything
local function claims_against(claims_key, owner, arrived)
  local held = {}
  if unclaimed[claims_key] then return held end
  if redis.call('EXISTS', claims_key) == 0 then
    unclaimed[claims_key] = true
    return held
  end
  local raw = redis.call('HGETALL', claims_key)
  for r = 1, #raw, 2 do
    local claim = cmsgpack.unpack(raw[r + 1])
    if claim[3] < clock or claim[3] > clock + CLAIM_S + CLAIM_GRACE_S then
      redis.call('HDEL', claims_key, raw[r])
    elseif claim[1] == owner or claim[2] < arrived then
      held[raw[r]] = claim
    end
  end
  return held
end

-- a refused caller that waits in the queue gets the next room of the account that has it soonest
local function claim(claims_key, claims, owner, arrived, account, wait)
  unclaimed[claims_key] = nil
  for held, by in pairs(claims) do
    if by[1] == owner and held ~= account then redis.call('HDEL', claims_key, held) end
  end
  redis.call('HSET', claims_key, account, cmsgpack.pack({owner, arrived, clock + min(wait, CLAIM_S) + CLAIM_GRACE_S}))
  redis.call('PEXPIRE', claims_key, 5000)
end

-- to the next millisecond: a refused account that is noted again gets the same score, so nothing moves
local function moment(second)
  return ceil(second * 1000) / 1000
end

-- When accounts fit again: written at the end of the batch, or before this batch reads or changes it.
local noted = {}
local function note_next(next_key, second, account)
  local of_group = noted[next_key]
  if not of_group then
    of_group = {}
    noted[next_key] = of_group
  end
  of_group[#of_group + 1] = second
  of_group[#of_group + 1] = account
end

local function save_next(next_key)
  local of_group = noted[next_key]
  if not of_group then return end
  noted[next_key] = nil
  for from = 1, #of_group, 4000 do redis.call('ZADD', next_key, unpack(of_group, from, min(from + 3999, #of_group))) end
  redis.call('PEXPIRE', next_key, INVENTED_TTL_MS)
end

local function reserve(item)
  local group, may_try, jitter, candidates = item[2], item[6], item[7], item[8]
  local leave, owner, arrived = item[10], item[11], item[12] or clock
  local claims_key = prefix .. ':claims:' .. group
  local claims, best, best_wait = claims_against(claims_key, owner, arrived), nil, 0
  local requests, tokens, images = item[3], item[4], item[5]
  local cost = {requests, tokens, requests, tokens, images, tokens}
  local next_key = prefix .. ':next:' .. group
  local soonest, dimension, dead, fits_somewhere, again, refill_s = -1, 0, {}, false, {}, 0
  if item[9] and item[9][1] then
    save_next(next_key)
    for _, account in ipairs(item[9]) do redis.call('ZREM', next_key, account) end
  end
  for n, c in ipairs(candidates) do
    local account = c[1]
    local use = usable(c, may_try)
    if use == 0 then
      dead[#dead + 1] = n
      save_next(next_key)
      redis.call('ZREM', next_key, account)
    elseif claims[account] and claims[account][1] ~= owner then
      fits_somewhere = true
      local wait = max(0.01, claims[account][3] - clock)
      if soonest < 0 or wait < soonest then soonest, dimension = wait, 0 end
    else
      local h = open_bucket(account, group, c[2])
      local b = h.b
      local wait, which = wait_for(h, cost, leave)
      if wait == 0 then
        for i = 1, N do
          local amount = cost[i]
          if amount ~= 0 then
            add(b, i, -amount, -amount)
            b[CHARGED + i] = b[CHARGED + i] + amount
            b[RECENT + i] = b[RECENT + i] + amount
          end
        end
        h.changed = true
        if use == 2 then note_trial(c, jitter) end
        for held, by in pairs(claims) do
          if by[1] == owner then redis.call('HDEL', claims_key, held) end
        end
        for r = 1, #again, 2 do note_next(next_key, again[r], again[r + 1]) end
        note_next(next_key, b[AT] + max(0, wait_for(h, cost, leave)), account)
        return {1, n, b[AT], headroom(h), use == 2, moments(b)}
      end
      -- A bucket that starts empty refills from now on, not from its first grant.
      if h.is_new and start_low then h.changed = true end
      if wait > 0 then
        fits_somewhere = true
        if not best or wait < best_wait then best, best_wait = account, wait end
        again[#again + 1], again[#again + 2] = moment(b[AT] + wait), account
        if soonest < 0 or wait < soonest then
          soonest, dimension = wait, which
          refill_s = which > 0 and cost[which] / h.room.rates[which] or 0
        end
      elseif not fits_somewhere then
        dimension = which
      end
    end
  end
  if owner ~= '' and best then claim(claims_key, claims, owner, arrived, best, best_wait) end
  -- Accounts that were no candidates but may be ready sooner: the caller knows their keys and tries again.
  local hints = {}
  save_next(next_key)
  if #again > 0 then redis.call('ZADD', next_key, unpack(again)) end
  redis.call('ZREMRANGEBYSCORE', next_key, '-inf', clock - UNHEARD_S)
  redis.call('PEXPIRE', next_key, INVENTED_TTL_MS)
  if item[13] then return {0, soonest, dimension, hints, dead, refill_s} end
  local asked = {}
  for _, c in ipairs(candidates) do asked[c[1]] = true end
  local ready = redis.call('ZRANGE', next_key, 0, 7, 'WITHSCORES')
  for r = 1, #ready, 2 do
    if not asked[ready[r]] then
      local wait = max(0, tonumber(ready[r + 1]) - clock)
      if wait == 0 then hints[#hints + 1] = ready[r] end
      if soonest < 0 or wait < soonest then soonest = wait end
    end
  end
  return {0, soonest, dimension, hints, dead, refill_s}
end

-- what of upstream's level minus ours is not explained by calls that were near in time
local function surprise(difference, earlier, later, may_raise)
  if difference < -later then return difference + later end
  if difference > earlier and may_raise then return difference - earlier end
  return 0
end

local function teach(b, i, kept, corrected)
  b[TAUGHT_KEPT + i] = b[TAUGHT_KEPT + i] + kept
  b[TAUGHT_CORRECTED + i] = b[TAUGHT_CORRECTED + i] + corrected
end

local function compare(b, e, age, limit)
  local i = e[1]
  local since = max(0, b[CHARGED + i] - e[6])
  local later = age > 0 and since * min(1, REORDER_S / age) or since
  local earlier = e[7] + limit / PERIOD[i] * BREATH_S
  local may_raise = limit >= e[2]
  local kept = surprise(e[3] - (e[4] + b[TAUGHT_KEPT + i] - e[8]), earlier, later, may_raise)
  local corrected = surprise(e[3] - (e[5] + b[TAUGHT_CORRECTED + i] - e[9]), earlier, later, may_raise)
  local leading = corrected_leads(b, i) and corrected or kept
  local to_kept, to_corrected = kept < 0 and kept or kept * RAISE, corrected < 0 and corrected or corrected * RAISE
  add(b, i, to_kept, to_corrected)
  teach(b, i, to_kept, to_corrected)
  if leading < 0 then
    b[MARGIN + i] = min(WIDEST_MARGIN * limit, max(b[MARGIN + i], -leading) - leading / 4)
  end
  if IS_TOKENS[i] and limit > 0 then
    local told = (abs(corrected) - abs(kept)) / limit * 20
    b[LEAN] = b[LEAN] + LEARN * (max(-1, min(1, told)) - b[LEAN])
  end
end

local function follow(h, reserved_at, evidence)
  local b, written = h.b, h.terms.written
  reserved_at = min(reserved_at, b[AT])
  local fresh = reserved_at > b[SEEN] or b[SEEN] == 0
  if #evidence > 0 and fresh then b[SEEN] = reserved_at end
  for _, e in ipairs(evidence) do
    local i = e[1]
    local guessed = written[i] < 0 and b[LEARNED + i] < 0
    if b[LEARNED + i] ~= e[2] then
      b[LEARNED + i] = e[2]
      weigh(h)
    end
    local known = b[KEPT + i] > -UNBOUNDED
    if guessed or not known then
      local since = e[4] > -UNBOUNDED and max(0, b[CHARGED + i] - e[6]) or 0
      local level = min(h.room.fulls[i] or UNBOUNDED, e[3] - since)
      teach(b, i, level - (known and b[KEPT + i] or 0), level - (known and b[CORRECTED + i] or 0))
      b[KEPT + i], b[CORRECTED + i] = level, level
    elseif fresh and e[4] > -UNBOUNDED then
      compare(b, e, max(0, b[AT] - reserved_at), limit_of(b, written, i))
    end
  end
end

local function settle(item)
  local group, account = item[2], item[3]
  local requests, tokens, images, unused = item[5], item[6], item[7], item[8]
  local cool_s, reserved_at, evidence, event = item[9], item[10], item[11], item[12]
  local h = open_bucket(account, group, item[4])
  local b = h.b
  h.changed = true
  follow(h, reserved_at, evidence)
  if requests ~= 0 or tokens ~= 0 or images ~= 0 then
    local back = {requests, tokens, requests, tokens, images, tokens}
    for i = 1, N do
      add(b, i, back[i], back[i])
      b[CHARGED + i] = b[CHARGED + i] - back[i]
    end
  end
  if unused ~= 0 then
    for i = 1, N do
      if IS_TOKENS[i] then add(b, i, 0, unused) end
    end
  end
  if event == 1 then
    for i = 1, N do
      if b[LEARNED + i] < 0 then b[LEARNED + i] = UNBOUNDED end
    end
    if b[SEEN] == 0 then b[LEAN] = -1 end
    refill(h)
  elseif event == 2 then
    b[RAMP] = max(SLOWEST, b[RAMP] * SLOWED)
    weigh(h)
  elseif event == 3 then
    b[BURST_S] = max(SHORTEST_BURST_S, b[BURST_S] / 2)
    weigh(h)
  end
  if cool_s > 0 then
    b[COOL] = max(b[COOL], b[AT] + cool_s)
    save_next(prefix .. ':next:' .. group)
    redis.call('ZADD', prefix .. ':next:' .. group, 'GT', b[COOL], account)
  end
  return {2, headroom(h)}
end

local function release(item)
  local claims_key = prefix .. ':claims:' .. item[2]
  local raw = redis.call('HGETALL', claims_key)
  for r = 1, #raw, 2 do
    if cmsgpack.unpack(raw[r + 1])[1] == item[3] then redis.call('HDEL', claims_key, raw[r]) end
  end
  return {3}
end

local function pay(item)
  local group, account = item[2], item[3]
  local kept, corrected, cool_s = item[5], item[6], item[7]
  local h = open_bucket(account, group, item[4])
  local b = h.b
  h.changed = true
  for i = 1, N do
    add(b, i, -kept[i], -corrected[i])
    b[CHARGED + i] = b[CHARGED + i] + kept[i]
  end
  b[COOL] = max(b[COOL], b[AT] + cool_s)
  save_next(prefix .. ':next:' .. group)
  redis.call('ZADD', prefix .. ':next:' .. group, 'GT', b[COOL], account)
  return {4}
end

local DO = {reserve, settle, release, pay}
local results = {}
for n, item in ipairs(cmsgpack.unpack(ARGV[2])) do
  results[n] = DO[item[1]](item)
end
save_buckets()
for next_key in pairs(noted) do save_next(next_key) end
local answer = cmsgpack.pack({tonumber(version), epoch, clock, results})
redis.call('SET', batch_key, answer, 'PX', 120000)
if ARGV[5] ~= '' then redis.call('PEXPIRE', prefix .. ':batch:' .. ARGV[5], 5000) end
return answer

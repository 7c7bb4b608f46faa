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
  local group, may_try, jitter, candidates, rules = item[2], item[6], item[7], item[8], item[14]
  local blocked = rules and the_rules().blocked_by(rules)
  if blocked then return {2, blocked} end
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
        return {1, n, b[AT], headroom(h), use == 2, moments(b), rules and the_rules().take(rules)}
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


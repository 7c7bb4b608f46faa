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


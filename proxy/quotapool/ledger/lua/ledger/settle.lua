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
  if item[13] then the_rules().settle(item[13], reserved_at) end
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

local DO = {reserve, settle, release, pay, charge, hold}
local results = {}
for n, item in ipairs(cmsgpack.unpack(ARGV[2])) do
  results[n] = DO[item[1]](item)
end
save_buckets()
if made then made.save() end
for next_key in pairs(noted) do save_next(next_key) end
local answer = cmsgpack.pack({tonumber(version), epoch, clock, results})
redis.call('SET', batch_key, answer, 'PX', 120000)
if ARGV[5] ~= '' then redis.call('PEXPIRE', prefix .. ':batch:' .. ARGV[5], 5000) end
return answer

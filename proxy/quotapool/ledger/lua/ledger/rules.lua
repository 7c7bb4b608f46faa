
-- What clients and teams may use: their limits and budgets, called rules. A request's are checked before any account is
-- looked at, and taken with the account's budget or not at all.
--   rules    {packed, amounts}
--     packed: msgpack {{subject, {rule, ...}}, ...}, one entry for the client and one for its team; unpacked once a batch
--     rate    {id, 1, limit, is_hard, period_s}: refills by the second
--     slots   {id, 2, limit, is_hard}: what is in use at the same time
--     budget  {id, 3, limit, is_hard, ends, next_ends, known}: used from one end of a period to the next
--       ends, next_ends: seconds at which the caller's present period ends, and the one after it
--       known: what the caller saw used of the present one up to a second ago, for a store that was restored from an
--       older copy
--     amounts: what is asked of each rule
--   used     {packed, held, used}
--     packed: msgpack {{subject, {id, kind, id, kind, ...}}, ...}; held, used: of each rule
-- Stored  qp:{pool}:rules:<subject>  msgpack {counters, held}
--   counters: id -> rate {level, at}, budget {used, ends, began}
--   held: worker -> {born, missed, id -> amount}: reserved and not settled yet. `missed` is the second since which the
--     worker shows no sign of life, or 0: after LIVES_S what it held is free.
-- A settle that is about an earlier period, or about what is no longer held, is known by when it was reserved.
-- The arithmetic is domain/rules.py's, which is its specification.

-- Made for the first item of a batch that needs it: most batches need none of it.
local function make_rules()
  local RATE, SLOTS, BUDGET = 1, 2, 3
  local REPLICA_LIVES_S, LIVES_S, HALF = 10, 5, 0.5
  local ENDLESS = 1e18 -- the end of a budget in total (domain/periods.py)
  local RULES_TTL_MS = 400 * 86400 * 1000
  local worker = string.match(ARGV[1], '^[^.]+') -- whose batch it is

  local living -- worker -> true; asked at most once a batch
  local function lives(other)
    if not living then
      living = {}
      for _, name in ipairs(redis.call('ZRANGE', prefix .. ':replicas', clock - REPLICA_LIVES_S, '+inf', 'BYSCORE')) do
        living[name] = true
      end
    end
    return living[other]
  end

  local unpacked = {}
  local function rules_in(packed)
    local rules = unpacked[packed]
    if not rules then
      rules = cmsgpack.unpack(packed)
      unpacked[packed] = rules
    end
    return rules
  end

  local subjects = {} -- what this batch knows of a subject, by name
  local function open_subject(name)
    local s = subjects[name]
    if s then return s end
    local key = prefix .. ':rules:' .. name
    local raw = redis.call('GET', key)
    local stored = raw and cmsgpack.unpack(raw) or {{}, {}}
    s = {key = key, counters = stored[1], held = stored[2], changed = false}
    for other, h in pairs(s.held) do
      if h[1] > clock then h[1] = clock end -- it was set back
      if other ~= worker and not lives(other) then
        if h[2] == 0 or h[2] > clock then
          h[2], s.changed = clock, true
        elseif clock - h[2] >= LIVES_S then
          s.held[other], s.changed = nil, true
        end
      elseif h[2] > 0 then
        h[2], s.changed = 0, true
      end
    end
    subjects[name] = s
    return s
  end

  local function save_subjects()
    for _, s in pairs(subjects) do
      if s.changed then redis.call('SET', s.key, cmsgpack.pack({s.counters, s.held}), 'PX', RULES_TTL_MS) end
    end
  end

  local function held_of(s, id)
    local total = 0
    for _, h in pairs(s.held) do total = total + (h[3][id] or 0) end
    return total
  end

  -- a rule's counter as of now
  local function counter_of(s, rule)
    local id, kind, c = rule[1], rule[2], s.counters[rule[1]]
    if kind == RATE then
      local limit = rule[3]
      if not c then
        c = {limit, clock}
        s.counters[id] = c
      else
        if c[2] < clock then c[1] = c[1] + (clock - c[2]) * limit / rule[5] end
        c[1], c[2] = min(limit, c[1]), clock
      end
    elseif kind == BUDGET then
      local this, following = rule[5], rule[6]
      local ends = this > clock and this or following > clock and following or clock + following - this
      if not c then
        c = {0, ends, clock}
        s.counters[id] = c
      elseif c[2] <= clock then
        c[1], c[2], c[3] = 0, ends, clock
        for _, h in pairs(s.held) do h[3][id] = nil end
      else
        c[2] = ends -- another zone than before, or the clock was set back: what was used stays used
        if c[3] > clock then c[3] = clock end
      end
      if ends == this and c[1] < rule[7] then c[1] = rule[7] end
    end
    return c
  end

  -- what is used of a rule, what is held of it besides, and how long until the amount fits: 0 it does, or as soon as
  -- others have settled; -1 never. The fourth: whether it fits now
  local function look_at(s, rule, amount)
    local kind, limit, c = rule[2], rule[3], counter_of(s, rule)
    if kind == RATE then
      local used = limit - c[1]
      if amount <= c[1] + 1e-6 then return used, 0, 0, true end
      if amount > limit then return used, 0, -1, false end
      return used, 0, (amount - c[1]) / limit * rule[5], false
    end
    local used, held = c and c[1] or 0, held_of(s, rule[1])
    if used + held + amount <= limit then return used, held, 0, true end
    if used + amount <= limit then return used, held, 0, false end
    if kind == SLOTS or amount > limit or c[2] >= ENDLESS then return used, held, -1, false end
    return used, held, c[2] - clock, false
  end

  -- the rules that do not let this through: flat {place, used, held, wait_s}, or nil. Places count through all subjects.
  local function blocked_by(rules)
    local amounts, blocked, place = rules[2], nil, 0
    for _, of_subject in ipairs(rules_in(rules[1])) do
      local s = open_subject(of_subject[1])
      for _, rule in ipairs(of_subject[2]) do
        place = place + 1
        if rule[4] then
          local used, held, wait, does_fit = look_at(s, rule, amounts[place])
          if not does_fit then
            blocked = blocked or {}
            local n = #blocked
            blocked[n + 1], blocked[n + 2], blocked[n + 3], blocked[n + 4] = place, used, held, wait
          end
        end
      end
    end
    return blocked
  end

  -- brings the counters up to date, and begins those that are missing
  local function look(rules)
    for _, of_subject in ipairs(rules_in(rules[1])) do
      local s = open_subject(of_subject[1])
      for _, rule in ipairs(of_subject[2]) do counter_of(s, rule) end
    end
  end

  -- takes it all; returns flat {used, held} of each rule, this request's own part included
  local function take_rules(rules)
    local amounts, seen, place = rules[2], {}, 0
    for _, of_subject in ipairs(rules_in(rules[1])) do
      local s = open_subject(of_subject[1])
      local mine = s.held[worker]
      for _, rule in ipairs(of_subject[2]) do
        local id, amount, c, n = rule[1], amounts[place + 1], counter_of(s, rule), 2 * place
        place = place + 1
        if rule[2] == RATE then
          c[1] = max(-rule[3], c[1] - amount) -- one that only warns has debts, but not without end
          seen[n + 1], seen[n + 2] = rule[3] - c[1], 0
        else
          if not mine then
            mine = {clock, 0, {}}
            s.held[worker] = mine
          end
          mine[3][id] = (mine[3][id] or 0) + amount
          seen[n + 1], seen[n + 2] = c and c[1] or 0, held_of(s, id)
        end
      end
      s.changed = true
    end
    return seen
  end

  -- reserved_at: when it was held; 0: it was held nowhere
  local function settle_rules(used, reserved_at)
    local holds, uses, place = used[2], used[3], 0
    for _, of_subject in ipairs(rules_in(used[1])) do
      local s, flat = open_subject(of_subject[1]), of_subject[2]
      local mine = s.held[worker]
      for r = 1, #flat, 2 do
        local id, kind, c = flat[r], flat[r + 1], s.counters[flat[r]]
        place = place + 1
        local held, amount = holds[place], uses[place]
        if kind == RATE then
          if c then c[1] = c[1] + held - amount end
        elseif kind == SLOTS or (c and (reserved_at >= c[3] or reserved_at == 0)) then
          if mine and held ~= 0 and reserved_at >= mine[1] then
            local left = (mine[3][id] or 0) - held
            mine[3][id] = left >= HALF and left or nil
          end
          if c then c[1] = c[1] + amount end
        end
      end
      if mine and not next(mine[3]) then s.held[worker] = nil end
      s.changed = true
    end
  end

  return {blocked_by = blocked_by, look = look, take = take_rules, settle = settle_rules, save = save_subjects}
end
local made
local function the_rules()
  made = made or make_rules()
  return made
end

local function charge(item)
  local rules = the_rules()
  if item[4] then rules.look(item[4]) end
  rules.settle(item[3], item[2])
  return {5}
end

local function hold(item)
  local rules = the_rules()
  local blocked = rules.blocked_by(item[2])
  if blocked then return {2, blocked} end
  return {6, rules.take(item[2])}
end

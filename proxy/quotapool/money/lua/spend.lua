-- spend, version 3: adds one batch of spend to the days' totals and to the slots of time, once, however often it is sent.
--
-- KEYS[1]   qp:{pool:spend}:batch:<sender>   the number of the sender's last batch that was added
-- KEYS[2..] hashes of one UTC day: day:<date>:<dimension> and hours:<date>; then tables of slots
-- ARGV[1]   seconds to keep that number: longer than any batch is sent again
-- ARGV[2]   MessagePack, for each hash of a day: {seconds to live, {field, amount, field, amount, ...}}
-- ARGV[3]   MessagePack, for each table of a minute: {the name of all others, for each of its keys: {seconds to live,
--             most rows}, {name, sums, name, sums, ...}}
-- ARGV[4]   this batch's number; a sender's numbers rise, and it sends one batch at a time
--
-- Stored    qp:{pool:spend}:day:<date>:<account|key|model|client|pool>   hash "<measure>:<name>" -> integer,
--             measures x exact, e estimated, p probes (picodollars), u unpriced requests, r requests, i prompt,
--             c cached prompt, o completion tokens; in the pool's hash also v: the price data's version (a string)
--           qp:{pool:spend}:hours:<date>   hash hour of the day -> picodollars of the pool
--           qp:{pool:spend}:use:<day|hour|minute>:<its start>:<client|key|refusal|rescue>, and of days :<cache|saved>   hash of
--             rows: names, joined by zero bytes (client, model | account, key, model | client, why | why | result | client, model)
--             -> MessagePack of the sums: requests, exact, prompt, completion, cached, estimated, unpriced, probes; zeros at the
--             end may be missing
-- Returns   1 added, 0 it was added before
--
-- Days' amounts stay strings: Lua's numbers are exact to 2^53 only, HINCRBY's to 2^63. Sums of slots are Lua's numbers:
-- beyond 9,007 USD in one row a sum may be off by some picodollars for each batch. One packed value takes a quarter of the
-- memory of a field for each sum.
--
-- When a table is full and a new name comes, the smaller half of its rows, by tokens and requests, is added to the row of
-- all others (fold): half a millisecond for 500 rows, once in 250 new names.

if tonumber(redis.call('GET', KEYS[1]) or -1) >= tonumber(ARGV[4]) then return 0 end
redis.call('SET', KEYS[1], ARGV[4], 'EX', ARGV[1])

local hashes = cmsgpack.unpack(ARGV[2])
for k, hash in ipairs(hashes) do
  local key, seconds, fields = KEYS[k + 1], hash[1], hash[2]
  for at = 1, #fields, 2 do
    if fields[at] == 'v' then
      redis.call('HSET', key, 'v', fields[at + 1])
    else
      redis.call('HINCRBY', key, fields[at], fields[at + 1])
    end
  end
  redis.call('EXPIRE', key, seconds)
end

local function add(sums, added)
  for n = 1, #added do sums[n] = (sums[n] or 0) + added[n] end
end

local function fold(key, other, most)
  local raw, rest, rows = redis.call('HGETALL', key), {}, {}
  for at = 1, #raw, 2 do
    local sums = cmsgpack.unpack(raw[at + 1])
    if raw[at] == other then
      rest = sums
    else
      rows[#rows + 1] = {raw[at], sums, sums[1] + (sums[3] or 0) + (sums[4] or 0)}
    end
  end
  table.sort(rows, function(a, b) return a[3] < b[3] end)
  local gone = {}
  for n = 1, #rows - math.floor(most / 2) do
    gone[n] = rows[n][1]
    add(rest, rows[n][2])
  end
  redis.call('HDEL', key, unpack(gone))
  redis.call('HSET', key, other, cmsgpack.pack(rest))
  return #rows - #gone + 1
end

local place = #hashes + 1
for _, of in ipairs(cmsgpack.unpack(ARGV[3])) do
  local other, bounds, rows = of[1], of[2], of[3]
  for _, bound in ipairs(bounds) do
    place = place + 1
    local key, seconds, most = KEYS[place], bound[1], bound[2]
    local held = redis.call('HLEN', key)
    local is_new = held == 0
    for at = 1, #rows, 2 do
      local name, sums = rows[at], rows[at + 1]
      local stored = redis.call('HGET', key, name)
      if not stored and held >= most then
        held = fold(key, other, most)
        stored = redis.call('HGET', key, name)  -- it may be that of all others
      end
      if stored then
        stored = cmsgpack.unpack(stored)
        add(stored, sums)
        sums = stored
      else
        held = held + 1
      end
      redis.call('HSET', key, name, cmsgpack.pack(sums))
    end
    if is_new then redis.call('EXPIRE', key, seconds) end
  end
end
return 1

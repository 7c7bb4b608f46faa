-- spend, version 3: adds one batch of spend to the days' totals and to the slots of time, once, however often it is sent.
--
-- KEYS[1]   qp:{pool:spend}:batch:<sender>   the number of the sender's last batch that was added
-- KEYS[2..] hashes of one UTC day: day:<date>:<dimension> and hours:<date>; then tables of slots
-- ARGV[1]   seconds to keep that number: longer than any batch is sent again
-- ARGV[2]   MessagePack, for each hash of a day: {seconds to live, {field, amount, field, amount, ...}}
-- ARGV[3]   MessagePack, for each table of a minute: {pattern of a name's head, the last resort's name,
--             for each of its keys: {seconds to live, own rows, shared rows}, {name, sums, name, sums, ...}}
-- ARGV[4]   this batch's number; a sender's numbers rise, and it sends one batch at a time
--
-- Stored    qp:{pool:spend}:day:<date>:<account|key|model|client|pool>   hash "<measure>:<name>" -> integer,
--             measures x exact, e estimated, p probes (picodollars), u unpriced requests, r requests, i prompt,
--             c cached prompt, o completion tokens; in the pool's hash also v: the price data's version (a string)
--           qp:{pool:spend}:hours:<date>   hash hour of the day -> picodollars of the pool
--           qp:{pool:spend}:use:<day|hour|minute>:<its start>:<client|key|refusal>   hash of rows: names, joined by
--             zero bytes (client, model | account, key, model | client, why) -> MessagePack of the sums: requests, exact,
--             prompt, completion, cached, estimated, unpriced, probes; zeros at the end may be missing
-- Returns   1 added, 0 it was added before
--
-- Days' amounts stay strings: Lua's numbers are exact to 2^53 only, HINCRBY's to 2^63. Sums of slots are Lua's numbers:
-- beyond 9,007 USD in one row a sum may be off by some picodollars for each batch. One packed value takes a quarter of the
-- memory of a field for each sum.
--
-- A table has room for so many names; after that a name counts under its head (the client, the key) and `other`, and
-- once there are too many of these as well, under the last resort.

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

local place = #hashes + 1
for _, of in ipairs(cmsgpack.unpack(ARGV[3])) do
  local head, last_resort, bounds, rows = of[1], of[2], of[3], of[4]
  for _, bound in ipairs(bounds) do
    place = place + 1
    local key, seconds, own, shared = KEYS[place], bound[1], bound[2], bound[3]
    local held = redis.call('HLEN', key)
    local is_new = held == 0
    for at = 1, #rows, 2 do
      local name, added = rows[at], rows[at + 1]
      local sums = redis.call('HGET', key, name)
      if not sums and held >= own then
        name = string.match(name, head) .. 'other'
        sums = redis.call('HGET', key, name)
        if not sums and held >= own + shared then
          name = last_resort
          sums = redis.call('HGET', key, name)
        end
      end
      if sums then
        sums = cmsgpack.unpack(sums)
        for n = 1, #added do sums[n] = (sums[n] or 0) + added[n] end
      else
        sums, held = added, held + 1
      end
      redis.call('HSET', key, name, cmsgpack.pack(sums))
    end
    if is_new then redis.call('EXPIRE', key, seconds) end
  end
end
return 1

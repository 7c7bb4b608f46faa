-- spend, version 2: adds one batch of spend to the days' totals, once, however often it is sent.
--
-- KEYS[1]   qp:{pool:spend}:batch:<id>   marks this batch as added
-- KEYS[2..] hashes of one UTC day: day:<date>:<dimension> and hours:<date>
-- ARGV[1]   seconds to keep the mark: longer than any batch is sent again
-- ARGV[2]   MessagePack, for each of KEYS[2..]: {seconds to live, {field, amount, field, amount, ...}}
--
-- Stored    qp:{pool:spend}:day:<date>:<account|key|model|client|pool>   hash "<measure>:<name>" -> integer,
--             measures x exact, e estimated, p probes (picodollars), u unpriced requests, r requests, i prompt,
--             c cached prompt, o completion tokens; in the pool's hash also v: the price data's version (a string)
--           qp:{pool:spend}:hours:<date>   hash hour of the day -> picodollars of the pool
-- Returns   1 added, 0 it was added before
--
-- Amounts stay strings here: Lua's numbers are exact to 2^53 only, HINCRBY's to 2^63.

if redis.call('SET', KEYS[1], '1', 'NX', 'EX', ARGV[1]) == false then return 0 end

for k, hash in ipairs(cmsgpack.unpack(ARGV[2])) do
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
return 1

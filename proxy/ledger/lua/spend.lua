-- spend, version 1: adds one batch of spend to the days' totals, once, however often it is sent.
--
-- KEYS[1]   qp:{pool:spend}:batch:<id>   the mark that this batch is in
-- KEYS[2..] hashes of one UTC day: day:<date>:<dimension> and hours:<date>
-- ARGV[1]   seconds to keep the mark: longer than anyone sends a batch again
-- ARGV[2..] for each of KEYS[2..]: seconds to live, number of fields n, then n times field and amount
--
-- Stored    qp:{pool:spend}:day:<date>:<account|key|model|client|pool>   hash "<measure>:<name>" -> integer,
--             measures x exact, e estimated, p probes (picodollars), u unpriced requests, r requests, i prompt,
--             c cached prompt, o completion tokens; in the pool's hash also v: the price data's version (a text)
--           qp:{pool:spend}:hours:<date>   hash hour of the day -> picodollars of the pool
-- Returns   1 added, 0 it was in already
--
-- Amounts stay texts here: Lua's numbers are exact to 2^53 only, HINCRBY's to 2^63.

if redis.call('SET', KEYS[1], '1', 'NX', 'EX', ARGV[1]) == false then return 0 end

local at = 2
for k = 2, #KEYS do
  local key, seconds, n = KEYS[k], ARGV[at], tonumber(ARGV[at + 1])
  at = at + 2
  for _ = 1, n do
    if ARGV[at] == 'v' then
      redis.call('HSET', key, 'v', ARGV[at + 1])
    else
      redis.call('HINCRBY', key, ARGV[at], ARGV[at + 1])
    end
    at = at + 2
  end
  redis.call('EXPIRE', key, seconds)
end
return 1

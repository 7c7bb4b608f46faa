-- notes, version 1: adds sums to a day's, and says which requests a cache would have had an answer to.
--
-- KEYS[1]   qp:{pool:advice}:asked        the answers that a cache would have
-- KEYS[2]   qp:{pool:advice}:day:<date>   the sums of a UTC day
-- ARGV[1]   digests of requests, 8 bytes each, in the order in which they were answered
-- ARGV[2]   seconds that an answer would be kept
-- ARGV[3]   MessagePack: {name, {number, ...}, name, {number, ...}, ...}, numbers to be added (advice/sums.py)
-- ARGV[4]   the most names of a day; further ones are left out
-- ARGV[5]   seconds to keep a day
--
-- Stored    asked: string of 32,768 places of 64 bytes, each for 8 answers: 4 bytes of the digest, and the second at
--             which the answer was made (4 bytes, big endian). A new one takes the place of the oldest. The other bytes of
--             the digest say which place
--           day: hash name -> MessagePack of the numbers, and `since` -> the second of its first note
-- Returns   for each digest 1, if it would have been a hit, else 0
--
-- It is what a cache of 262,144 entries does: a hit does not make an answer last longer. A digest that is new takes 4, a known
-- one 1.4 microseconds, 20 rows 200.

local PLACES, ROOM, SLOT = 32768, 64, 8
local digests, kept = ARGV[1], tonumber(ARGV[2])
local time = redis.call('TIME')
local now = tonumber(time[1])
local hits = {}

for first = 1, #digests, 8 do
  local a, b, c = string.byte(digests, first, first + 2)
  local from = ((a * 65536 + b * 256 + c) % PLACES) * ROOM
  local mark = string.sub(digests, first + 4, first + 7)
  local place = redis.call('GETRANGE', KEYS[1], from, from + ROOM - 1)
  local slot, oldest, made = 0, math.huge, nil
  for at = 0, ROOM - SLOT, SLOT do
    local seconds = 0
    if #place >= at + SLOT then
      local w, x, y, z = string.byte(place, at + 5, at + 8)
      seconds = ((w * 256 + x) * 256 + y) * 256 + z
      if string.sub(place, at + 1, at + 4) == mark then
        slot, made = at, seconds
        break
      end
    end
    if seconds < oldest then
      slot, oldest = at, seconds
    end
  end
  if made and made <= now and now - made < kept then  -- a later one is of a clock that was set back
    hits[#hits + 1] = '1'
  else
    hits[#hits + 1] = '0'
    local stamp = string.char(math.floor(now / 16777216) % 256, math.floor(now / 65536) % 256,
                              math.floor(now / 256) % 256, now % 256)
    redis.call('SETRANGE', KEYS[1], from + slot, mark .. stamp)
  end
end
if #digests > 0 then redis.call('EXPIRE', KEYS[1], math.ceil(kept)) end

local rows = cmsgpack.unpack(ARGV[3])
if #rows > 0 then
  redis.call('HSETNX', KEYS[2], 'since', now)
  local names = redis.call('HLEN', KEYS[2])
  for at = 1, #rows, 2 do
    local name, sums = rows[at], rows[at + 1]
    local stored = redis.call('HGET', KEYS[2], name)
    if stored then
      stored = cmsgpack.unpack(stored)
      if #stored == #sums then
        for n = 1, #sums do sums[n] = sums[n] + stored[n] end
      end
    else
      names = names + 1
    end
    if stored or names <= tonumber(ARGV[4]) + 1 then
      redis.call('HSET', KEYS[2], name, cmsgpack.pack(sums))
    end
  end
  redis.call('EXPIRE', KEYS[2], ARGV[5])
end
return table.concat(hits)

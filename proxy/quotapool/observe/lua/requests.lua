-- requests, version 1: adds a chunk of requests to the ring, once, however often it is sent; those that are too old leave.
--
-- KEYS[1]   qp:{pool:requests}:ring             the chunks
-- KEYS[2]   qp:{pool:requests}:count            how many requests were ever added
-- KEYS[3]   qp:{pool:requests}:batch:<sender>   the number of the sender's last chunk
-- ARGV[1]   this chunk's number; a sender's numbers rise, and it sends one chunk at a time
-- ARGV[2]   how many requests are in it
-- ARGV[3]   MessagePack: an array of requests (observe/kept_request.py)
-- ARGV[4]   how many requests to keep
-- ARGV[5]   seconds to live, from the last chunk on
--
-- Stored    ring: stream of {r = chunk}; an entry's id is <the number of its last request>-0, counted from the first that
--             was ever added; so an entry whose id is below the first request to keep has none of those
--           count: integer; it outlives the ring, whose ids must rise
-- Returns   1 added, 0 it was added before

if tonumber(redis.call('GET', KEYS[3]) or -1) >= tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[3], ARGV[1], 'EX', 3600)
local last = redis.call('INCRBY', KEYS[2], ARGV[2])
local first = math.max(1, last - ARGV[4] + 1)
redis.call('XADD', KEYS[1], 'MINID', '=', string.format('%.0f', first), string.format('%.0f-0', last), 'r', ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[5])
redis.call('EXPIRE', KEYS[2], ARGV[5] + 86400)
return 1

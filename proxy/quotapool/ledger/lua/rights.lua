-- rights, version 5: may this user do all that Quotapool does in the store? Each command once, on keys made for it.
--
-- KEYS     qp:{pool}:rights:<text|hash|set|sorted|stream>, in this order; deleted again
-- ARGV[1]  absent: stop at the first command that is not allowed; 'all': try the others, too
--
-- Returns  'ok', or the server's error at that first command; with 'all' an array of <command> <the server's error>
--
-- A command that is used anywhere in the code, in a script or not, has its line here: tests/ledger/test_rights.py looks.

local server, refused = redis, {}
local redis = redis
if ARGV[1] == 'all' then
  redis = {call = function(command, ...)
    local answer = server.pcall(command, ...)
    if type(answer) == 'table' and answer.err then refused[#refused + 1] = command .. ' ' .. answer.err end
    return answer
  end}
end
local text, hash, set, sorted, stream = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local packed = cmsgpack.unpack(cmsgpack.pack('1'))
local _ = redis.call('TIME')
redis.call('DEL', text, hash, set, sorted, stream)
redis.call('SET', text, packed, 'PX', 60000, 'GET')
redis.call('INCR', text)
redis.call('INCRBY', text, 1)
redis.call('DECRBY', text, 1)
redis.call('GET', text)
redis.call('SETRANGE', text, 0, '1')
redis.call('GETRANGE', text, 0, 1)
redis.call('MGET', text)
redis.call('EXISTS', text)
redis.call('EXPIRE', text, 60)
redis.call('PEXPIRE', text, 60000)
redis.call('HSET', hash, 'f', '1')
redis.call('HSETNX', hash, 'f', '1')
redis.call('HINCRBY', hash, 'f', 1)
redis.call('HGET', hash, 'f')
redis.call('HMGET', hash, 'f')
redis.call('HGETALL', hash)
redis.call('HSCAN', hash, '0')
redis.call('HLEN', hash)
redis.call('HDEL', hash, 'f')
redis.call('SADD', set, 'm')
redis.call('SSCAN', set, '0')
redis.call('SREM', set, 'm')
redis.call('ZADD', sorted, 'GT', 1, 'm')
redis.call('ZCARD', sorted)
redis.call('ZCOUNT', sorted, 0, 1)
redis.call('ZSCORE', sorted, 'm')
redis.call('ZRANGE', sorted, 0, -1, 'WITHSCORES')
redis.call('ZREM', sorted, 'm')
redis.call('ZREMRANGEBYSCORE', sorted, '-inf', 0)
redis.call('ZREMRANGEBYRANK', sorted, 0, -1)
redis.call('XADD', stream, 'MAXLEN', '~', '10', '*', 'f', 'v')
redis.call('XRANGE', stream, '-', '+')
redis.call('XREVRANGE', stream, '+', '-')
redis.call('DEL', text, hash, set, sorted, stream)
if ARGV[1] ~= 'all' then return 'ok' end
for _, key in ipairs(KEYS) do server.pcall('PEXPIRE', key, 1000) end -- what a user that must not delete has left
return refused

-- take, version 1: read a value and delete it, in one step, so that it is used once however many try.
--
-- KEYS[1]  qp:{pool:login}:code:<id>   string, with expiry
--
-- Returns  the value, or '' if there is none

local value = redis.call('GET', KEYS[1])
if not value then return '' end
redis.call('DEL', KEYS[1])
return value

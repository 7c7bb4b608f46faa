-- client, version 2: replaces the record of one client or team, unless somebody else has changed it since it was read.
--
-- KEYS[1]  qp:{pool}:clients   hash client id -> JSON, see clients.py; or qp:{pool}:teams, see teams.py
-- KEYS[2]  qp:{pool}:version   see state.lua
-- KEYS[3..]                    what one of this name left behind, which a new one does not inherit: deleted with the change
-- ARGV[1]  client id, or team
-- ARGV[2]  the record as it was read, '' for none
-- ARGV[3]  the new record
--
-- Returns  1 done, 0 the record is another one

if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('INCR', KEYS[2])
if KEYS[3] then redis.call('DEL', unpack(KEYS, 3)) end
return 1

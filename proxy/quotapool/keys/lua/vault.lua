-- vault, version 2: keys added at run time, sealed. Every secret in it is encrypted with the master key.
--
-- KEYS[1]  qp:{pool}:vault           hash key id -> msgpack {print, about, sealed, master, added}
-- KEYS[2]  qp:{pool}:vault:prints    hash fingerprint of a secret -> key id: one secret has one id
-- KEYS[3]  qp:{pool}:vault:accounts  hash account -> JSON settings that came with its keys
-- KEYS[4]  qp:{pool}:vault:master    msgpack {id, check}: which master key is in force, and how to verify it
-- KEYS[5]  qp:{pool}:vault:version   counts changes; absent: this store never had a vault, or lost its data
-- KEYS[6]  qp:{pool}:version         counts changes of the pool, see ledger/lua/state.lua
-- ARGV[1]  action: put | forget | rotate
--   put     ARGV[2] id of the master key that sealed, ARGV[3] its check, ARGV[4] '1': a new secret may replace that of
--           an existing id, ARGV[5] n, then n times: key id, record; then pairs: account, JSON of its settings
--   forget  ARGV[2..] key ids
--   rotate  ARGV[2] id of the old master key, ARGV[3] check of the new one, then triples: key id, old record, new record
--
-- Returns  put     {1, {result of each key: added | unchanged | updated | replaced | taken | duplicate:<id>}}
--          forget  {1, how many were deleted}      rotate  {1, how many were sealed again}
--          any     {0, id of the master key in force} if it is another one; {-1} if a key changed meanwhile

local vault, prints, accounts, master = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

local function changed()
  redis.call('INCR', KEYS[5])
  redis.call('INCR', KEYS[6])
end

local function current_master()
  local raw = redis.call('GET', master)
  return raw and cmsgpack.unpack(raw).id or nil
end

local function put_one(id, raw, may_replace)
  local new = cmsgpack.unpack(raw)
  local owner = redis.call('HGET', prints, new.print)
  if owner and owner ~= id then return 'duplicate:' .. owner end
  local old_raw = redis.call('HGET', vault, id)
  local result = 'added'
  if old_raw then
    local old = cmsgpack.unpack(old_raw)
    if old.print == new.print and old.about == new.about then return 'unchanged' end
    if old.print ~= new.print and not may_replace then return 'taken' end
    result = old.print == new.print and 'updated' or 'replaced'
    redis.call('HDEL', prints, old.print)
  end
  redis.call('HSET', vault, id, raw)
  redis.call('HSET', prints, new.print, id)
  return result
end

if ARGV[1] == 'put' then
  local current = current_master()
  if current and current ~= ARGV[2] then return {0, current} end
  if not current then redis.call('SET', master, ARGV[3]) end
  local count, results = tonumber(ARGV[5]), {}
  for i = 0, count - 1 do
    results[#results + 1] = put_one(ARGV[6 + 2 * i], ARGV[7 + 2 * i], ARGV[4] == '1')
  end
  for i = 6 + 2 * count, #ARGV - 1, 2 do
    redis.call('HSET', accounts, ARGV[i], ARGV[i + 1])
  end
  changed()
  return {1, results}
end

if ARGV[1] == 'forget' then
  local gone = 0
  for i = 2, #ARGV do
    local raw = redis.call('HGET', vault, ARGV[i])
    if raw then
      redis.call('HDEL', vault, ARGV[i])
      redis.call('HDEL', prints, cmsgpack.unpack(raw).print)
      gone = gone + 1
    end
  end
  if gone > 0 then changed() end
  return {1, gone}
end

local current = current_master()
if current ~= ARGV[2] then return {0, current or ''} end
local count = (#ARGV - 3) / 3
if redis.call('HLEN', vault) ~= count then return {-1} end
for i = 4, #ARGV, 3 do
  if redis.call('HGET', vault, ARGV[i]) ~= ARGV[i + 1] then return {-1} end
end
for i = 4, #ARGV, 3 do
  redis.call('HSET', vault, ARGV[i], ARGV[i + 2])
end
redis.call('SET', master, ARGV[3])
changed()
return {1, count}

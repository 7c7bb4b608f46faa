-- ledger, version 6: the reserves and settles of one worker, as one atomic batch. One script, of these files in this
-- order: batch.lua, buckets.lua, rules.lua, reserve.lua, settle.lua.
--
-- KEYS[1]  qp:{pool}            prefix; every other key of the pool carries the same hash tag, hence the same slot
-- KEYS[2..] are not read: a server that must be told beforehand gets all keys (declared_keys.py). That of the batch is
--           read before anything is written, so a server that refuses it has done nothing.
-- ARGV[1]  <worker>.<serial>    the batch's id: repeated, the first answer is returned and nothing is done again
-- ARGV[2]  msgpack array of items, done in order; an item never raises, since Lua does not roll back
--   reserve {1, group, requests, tokens, images, may_try_resting, jitter, candidates, forget, leave, owner, arrived, alone,
--            rules}
--           candidates: {account, terms, names}
--           terms: msgpack {burst_s, rpm, tpm, rpd, tpd, ipm}; a limit of -1: not configured
--           names: msgpack {'a/<account>', account_fingerprint, 'k/<key>', key_fingerprint, 'o/<organization>' if known};
--                  both stay packed until they are needed: many accounts have the same terms, and few have a record
--           leave: share of each budget that must stay for others; owner: '' or who waits in the queue;
--           arrived: its second, earlier for a higher priority: earlier ones go first; nil: now
--           alone: only the candidates can serve it, so the wait does not depend on other accounts
--           rules: what its client and team may use, see rules.lua; absent: no rules
--           forget: accounts hinted at before that the caller cannot use; they are hinted at again after another use
--   settle  {2, group, account, terms, back_requests, back_tokens, back_images, unused_tokens, cool_s, reserved_at,
--            evidence, event, used}
--           back_*: what upstream never charged; unused_tokens: reserved less used, negative if more was used
--           cool_s: 0, or seconds to rest from now
--           evidence: {{dimension 1..6, limit, remaining, kept, corrected, charged, recent, taught_kept, taught_corrected}, ...}
--             the last six as the reserve's moments; kept -1e18: was unbounded
--           used: of its rules, see rules.lua; absent: nothing to be said of them, at least not yet
--           event: 0 nothing, 1 headerless (success, no limits named), 2 slow_down, 3 refused for a shorter span
--   release {3, group, owner}     owner left the queue: what it claimed is free
--   pay     {4, group, account, terms, kept 1..6, corrected 1..6, cool_s}
--           what a worker took while it did not reach the store, by dimension, in both predictions
--   charge  {5, reserved_at, used, rules}
--           what was used of rules beside any account's budget; rules: only if it was not held
--   hold    {6, rules}
--           rules to be checked and taken beside any account's budget, until a charge with this reserved_at
-- ARGV[3]  '' or the second that this clock should show by the worker's own monotonic clock
-- ARGV[4]  the second that it showed with the worker's last answer
--          If it shows more than it should, it was set forward meanwhile, unless that is known, or another worker, for
--          which there was no such step, says otherwise.
-- ARGV[5]  '' or the id of a batch whose answer has come: only a command that was late on its way may ask for it again
--
-- Stored
--   qp:{pool}:b3:<length of account>:<account>:<group>
--                                   54 msgpack numbers: the fields of domain/bucket.py's Bucket, in the order given below;
--                                   -1e18: no level (unbounded); learned -1: unknown, 1e18: upstream names none
--   qp:{pool}:next:<group>          sorted set: account -> second at which a request like its last one fits;
--                                   forgotten ten minutes after the group's last reserve
--   qp:{pool}:claims:<group>        hash: account -> msgpack {owner, arrived, until}: who waits and gets its next room;
--                                   later requests do not use that account, in any replica
--   qp:{pool}:buckets               set of msgpack {account, group}: which buckets exist, for metrics and alerts
--   qp:{pool}:states                hash, see state.lua; read here
--   qp:{pool}:version, :epoch       see state.lua; read here
--   qp:{pool}:steps                 msgpack {{second, by}, ...}: when the clock was set forward, and by how much. Seconds
--                                   stored before move by that when they are used. (If it was set back, what is stored
--                                   lies in the future, and nothing else is needed to see it.)
--   qp:{pool}:batch:<id>            the answer, kept for two minutes, or for five seconds once it has come
--
-- Returns  msgpack {version, epoch, now, results}
--   reserve granted {1, candidate 1.., now, headroom, is_trial, moments, seen}
--           moments: flat, {dimension, kept, corrected, charged, recent, taught_kept, taught_corrected, learned}
--             for each bounded dimension
--           seen: of its rules, flat {used, held}; absent without rules
--   reserve blocked {2, blocked}: rules of its client do not let it through, see rules.lua
--   reserve refused {0, wait_s (-1: never), dimension 0..6, hints, dead, refill_s}
--           hints: accounts that may be ready now; dead: candidates (1..) whose key may not be used
--           refill_s: how long the account that decides takes to gain this cost once more; 0: unknown
--   settle          {2, headroom}
--   release         {3}
--   pay             {4}
--   charge          {5}
--   hold            {6, seen}, as a reserve's
--   hold blocked    {2, blocked}, as a reserve's
--
-- The arithmetic and its constants are domain/bucket.py's, which is its specification.

local unpack = table.unpack or unpack -- where it is in Lua 5.4, and in 5.1
local prefix = KEYS[1]
local batch_key = prefix .. ':batch:' .. ARGV[1]
local before = redis.call('GET', batch_key)
if before then return before end

local UNBOUNDED = 1e18
local N = 6
-- A bucket is 54 numbers: six of its own, and behind each of these six more, by dimension.
local AT, COOL, LEAN, SEEN, BURST_S, RAMP = 1, 2, 3, 4, 5, 6
local KEPT, CORRECTED, LEARNED, CHARGED = 6, 12, 18, 24
local RECENT, MARGIN, TAUGHT_KEPT, TAUGHT_CORRECTED = 30, 36, 42, 48
local PERIOD = {60, 60, 86400, 86400, 60, 60}
local GUESS = {500, 200000, UNBOUNDED, UNBOUNDED, UNBOUNDED, UNBOUNDED}
local IS_TOKENS = {false, true, false, true, false, true}
local GUESSED_BURST, BREATH_S, REORDER_S, RAISE, LEARN, TRUSTED = 3, 1.2, 0.3, 0.2, 0.1, -0.02
local WIDEST_MARGIN, MARGIN_DECAY_S, SHORTEST_BURST_S, BURST_GROWTH_S = 0.2, 600, 1, 600
local SLOWED, SLOWEST, RAMP_GROWTH = 0.7, 0.05, 1.5 ^ (1 / 900)
-- A bucket without any known limit may be of a model that a caller invented; it is not kept for long.
local BUCKET_TTL_MS, INVENTED_TTL_MS = 3 * 86400 * 1000, 600 * 1000
local STEP_S, MOST_STEPS, STEPS_TTL_MS = 2, 8, 86400 * 1000
-- An account that has been ready for this long while callers were refused has left the pool: nobody uses it.
local UNHEARD_S = 30

local time = redis.call('TIME')
local clock = tonumber(time[1]) + tonumber(time[2]) / 1e6
local min, max, abs, exp, ceil = math.min, math.max, math.abs, math.exp, math.ceil

-- If the store lost its data, a missing bucket is not a full one. '' no epoch yet; 'f:…' fresh; 'r:<second>' reseeded.
local known = redis.call('MGET', prefix .. ':epoch', prefix .. ':version', prefix .. ':steps')
local epoch, version = known[1] or '', known[2] or '0'
local start_low = epoch == ''
if string.sub(epoch, 1, 2) == 'r:' then start_low = abs(clock - tonumber(string.sub(epoch, 3))) < 120 end

local function steps_of(raw)
  local steps, expected, last = raw and cmsgpack.unpack(raw) or {}, tonumber(ARGV[3]), tonumber(ARGV[4])
  local ahead, before, is_known = expected and clock - expected or 0, #steps, false
  for n = before, 1, -1 do
    local second = steps[n][1]
    if second > clock then -- it was set back since, and no second is stored any more that this step is about
      table.remove(steps, n)
    elseif expected and second > last then
      if abs(ahead) < STEP_S then table.remove(steps, n) else is_known = true end
    end
  end
  local is_new = ahead >= STEP_S and not is_known
  if is_new then
    steps[#steps + 1] = {clock, ahead}
    if #steps > MOST_STEPS then table.remove(steps, 1) end
  end
  if is_new or #steps ~= before then
    redis.call('SET', prefix .. ':steps', cmsgpack.pack(steps), 'PX', STEPS_TTL_MS)
  end
  return steps
end
local steps = {}
if known[3] or (ARGV[3] ~= '' and clock - ARGV[3] >= STEP_S) then steps = steps_of(known[3]) end


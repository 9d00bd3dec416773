#!lua name=tidegate
--[==[
The gate: admission of purchase intents, on one Valkey (7.2 or later) or Redis (7.0 or later).

WHY ONE CALL PER BATCH. Every limit is checked, and only then is any consumed, inside one atomic
call: an intent that one layer refuses costs the other layers nothing. What a batch shares is read
once and written once. The server does not roll a failed function back, so each function gathers,
decides, and only then applies: whatever can fail stands above "point of no return". No policy
lives here: every number comes as an argument. The clock is the server's TIME, never a caller's.

RATE LIMITS are GCRA, the generic cell rate algorithm, in its virtual scheduling form: ITU-T
Recommendation I.371, annex A; ATM Forum Traffic Management 4.0, section 4.4.2; as a limiter in
Redis: https://brandur.org/rate-limiting. A limit of `rate` a second with `burst` keeps one number,
its theoretical arrival time (TAT). With interval T = 1,000,000 / rate, the backlog is
max(0, TAT - now); an intent fits while backlog <= (burst - 1) * T, and taking it adds T. So the
room, the number of intents that fit at once, is floor(burst - backlog / T): a whole number, which
is what `decide` counts down. Departures from the papers: half a microsecond of backlog is taken
for rounding; a backlog above burst * T, which only a clock set back or a changed policy can leave,
is cut to it; and the k-th refusal of one call is told to wait k - 1 intervals longer, so that all
who come back when told to find room.

IN-FLIGHT is a set of intent ids, not a counter, so that settling twice is settling once. The set
can lose its memory: by FLUSHALL, a restart, a failover to a replica that lags. Two things together
say that it has been reconciled with the journal: the epoch key, which a flush removes, and
`incarnation` below, which lives in this library's own memory and so survives no restart, no
failover and no new load of the library. While they differ, only the unreconciled rate is taken.

KEYS. {p} is the deployment's prefix; its braces keep all keys in one slot of a cluster.
  {p}:in_flight              set of 16-byte intent ids; no expiry
  {p}:epoch                  string, the incarnation that was reconciled; no expiry
  {p}:unreconciled           string, TAT; expires when the TAT has passed
  {p}:reconciling:<token>    string, the incarnation a reconciliation began in; expires in 2 minutes
  {p}:user:<hash>  {p}:conversation:<hash>  {p}:gateway:<id>  {p}:campaign:<id>  {p}:sku:<ids>
                             string, TAT in microseconds of Unix time; expires when it has passed
The TAT keys travel inside the packed argument and are not declared: a batch of 500 has over 1,000
of them. They share the prefix, so the cluster's slot and the access rules hold for them as well.

FUNCTIONS. The first argument of each is the version that its caller was written for.

tidegate_admit   3 in_flight epoch unreconciled   version ids packed
    ids     the candidates' 16-byte ids, joined; at most 1,000 candidates
    packed  msgpack (text as str: this cmsgpack knows no bin) of an array:
            1 in_flight_max   how many may be in flight
            2 unreconciled    [interval_us, burst]
            3 policies        [layer, interval_us, burst] each; layers: 1 user, 2 conversation,
                              3 gateway, 4 campaign, 5 sku
            4 keys            the batch's limits, each once; below, a limit is its place from 1
            5 policy_of       for each limit, the place of its policy
            6 routes          lists of limits that candidates share
            7 takes           for each candidate: user limit, conversation limit (0: none), route
    reply   msgpack array:
            1 reconciled      1 or 0
            2 in_flight       after this call
            3 refusals        flat: candidate from 1, binding layer, wait_us; the others are admitted
            4 backlogs_us     of the limits, after this call
            The binding layer is the one with the longest wait; of equals the first. Layer 6 is
            in_flight: with a wait it is the unreconciled rate, with 0 the bound, and then the gate
            cannot know when there will be room.
tidegate_settle  1 in_flight   version ids channel announcement
    Removes the ids, then publishes the announcement unless it is empty. Reply: how many of the ids
    were in flight.
tidegate_release 1 in_flight   version ids
    Removes the ids. Reply: how many of them were in flight.
tidegate_reconcile_begin   3 in_flight epoch reconciling:<token>   version token
    Reply: [now_ms, in_flight, reconciled (1 or 0)].
tidegate_reconcile_finish  2 epoch reconciling:<token>   version
    Reply: 1: the set counts as reconciled; 0: it may have lost its memory since begin.
The caller reconciles between begin and finish, in small steps of plain commands: gate.py.
tidegate_state   2 in_flight epoch   version
    Reply: [in_flight, reconciled (1 or 0)].
tidegate_version 0
    Reply: the library's version. Who loads the library asks first, so as not to undo newer work.

ERRORS.  TIDEGATE_OUTDATED  the library is older than its caller, who loads its own and repeats.
         TIDEGATE_USAGE     the call is malformed. As after any other error, nothing was written.
A library answers callers of every earlier version; a call that changes gets a new function name.

OUT OF MEMORY. admit may not run then (it lacks allow-oom), and so fails closed. The others may:
they free memory, or take a few bytes so that memory can be freed.

ONE CALL: a candidate with the limits of a user (1 a second, burst 5) and a gateway (50, 100).
    packed = msgpack([1000, [200000, 1], [[1, 1000000, 5], [3, 20000, 100]],
                      ["{p}:user:9f", "{p}:gateway:g1"], [1, 2], [[2]], [1, 0, 1]])
    FCALL tidegate_admit 3 {p}:in_flight {p}:epoch {p}:unreconciled 1 <16 bytes> <packed>
    -> msgpack([0, 1, [], [1000000, 20000, 200000]])
--]==]

local VERSION = 1
local CANDIDATES_MAX = 1000    -- Bounds how long one call holds the server: about 10 ms.
local UNPACK_MAX = 1000        -- Lua's stack takes just under 8,000 values; smaller is as fast.
local ID_BYTES = 16
local LAYER_IN_FLIGHT = 6
local ROUNDING_US = 0.5
local RECONCILING_MS = 120000  -- An abandoned reconciliation leaves its key no longer than this.

local incarnation = nil

local function fail(code, detail)
  error(redis.error_reply(code .. ' ' .. detail))
end

local function check_call(keys, keys_expected, args, args_expected)
  local version = tonumber(args[1])
  if version and version > VERSION then
    fail('TIDEGATE_OUTDATED', 'library version ' .. VERSION)
  end
  if not version or #keys ~= keys_expected or #args ~= args_expected then
    fail('TIDEGATE_USAGE', 'expected ' .. keys_expected .. ' keys, a version and '
      .. args_expected - 1 .. ' more arguments')
  end
end

local function check_ids(ids)
  if #ids % ID_BYTES ~= 0 then
    fail('TIDEGATE_USAGE', 'ids must be of ' .. ID_BYTES .. ' bytes each')
  end
end

local function now_us()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local function is_reconciled(epoch_key)
  return incarnation ~= nil and redis.call('GET', epoch_key) == incarnation
end

-- Visits 1..count in runs short enough for unpack.
local function for_runs(count, visit)
  for first = 1, count, UNPACK_MAX do
    visit(first, math.min(first + UNPACK_MAX - 1, count))
  end
end

-- admit: gather ----------------------------------------------------------------------------------

local function read_batch(ids, packed)
  check_ids(ids)
  local known, fields = pcall(cmsgpack.unpack, packed)
  if not known or type(fields) ~= 'table' or #fields < 7 then
    fail('TIDEGATE_USAGE', 'packed must be a msgpack array of 7')
  end
  local batch = {
    ids = ids, count = #ids / ID_BYTES,
    in_flight_max = fields[1], unreconciled = fields[2], policies = fields[3],
    keys = fields[4], policy_of = fields[5], routes = fields[6], takes = fields[7],
  }
  if batch.count > CANDIDATES_MAX or #batch.takes ~= 3 * batch.count then
    fail('TIDEGATE_USAGE', 'takes must be 3 for each id, of at most ' .. CANDIDATES_MAX .. ' ids')
  end
  return batch
end

-- The unreconciled rate is one more limit on every route.
local function add_unreconciled_limit(batch, key)
  local policies, limit = batch.policies, #batch.keys + 1
  policies[#policies + 1] = {LAYER_IN_FLIGHT, batch.unreconciled[1], batch.unreconciled[2]}
  batch.keys[limit], batch.policy_of[limit] = key, #policies
  for _, route in ipairs(batch.routes) do
    route[#route + 1] = limit
  end
end

local function check_policies(policies)
  for _, policy in ipairs(policies) do
    if not (policy[2] > 0 and policy[3] >= 1) then  -- So written, NaN fails too.
      fail('TIDEGATE_USAGE', 'a policy needs interval_us > 0 and burst >= 1')
    end
  end
end

-- Returns for each limit its backlog, its room, and its room again, for `decide` to count down.
-- Limit 0 is no limit: it always has room.
local function read_limits(batch, now)
  local backlogs, rooms_before, rooms = {}, {}, {[0] = math.huge}
  local policies, policy_of = batch.policies, batch.policy_of
  local floor = math.floor
  for_runs(#batch.keys, function(first, last)
    local tats = redis.call('MGET', unpack(batch.keys, first, last))
    for limit = first, last do
      local policy = policies[policy_of[limit]]
      local interval, burst = policy[2], policy[3]
      local backlog = (tonumber(tats[limit - first + 1]) or now) - now
      if backlog < 0 then backlog = 0 end
      if backlog > interval * burst then backlog = interval * burst end
      backlogs[limit] = backlog
      rooms[limit] = floor(burst - (backlog - ROUNDING_US) / interval)
      rooms_before[limit] = rooms[limit]
    end
  end)
  return backlogs, rooms_before, rooms
end

-- admit: decide ----------------------------------------------------------------------------------

local function has_room(rooms, user, conversation, route)
  if rooms[user] < 1 or rooms[conversation] < 1 then return false end
  for i = 1, #route do
    if rooms[route[i]] < 1 then return false end
  end
  return true
end

local function take_room(rooms, user, conversation, route)
  rooms[user] = rooms[user] - 1
  rooms[conversation] = rooms[conversation] - 1
  for i = 1, #route do
    rooms[route[i]] = rooms[route[i]] - 1
  end
end

-- Takes the candidates in their order. Whoever finds no room is returned in `refused`.
-- A limit or a route that is not there faults here on nil, before anything is written.
local function decide(batch, rooms, in_flight)
  local takes, routes, ids = batch.takes, batch.routes, batch.ids
  local admitted, refused = {}, {}
  for candidate = 1, batch.count do
    local at = 3 * candidate
    local user, conversation, route = takes[at - 2], takes[at - 1], routes[takes[at]]
    if has_room(rooms, user, conversation, route)
        and in_flight + #admitted < batch.in_flight_max then
      take_room(rooms, user, conversation, route)
      local last_byte = candidate * ID_BYTES
      admitted[#admitted + 1] = string.sub(ids, last_byte - ID_BYTES + 1, last_byte)
    else
      refused[#refused + 1] = candidate
    end
  end
  return admitted, refused
end

-- Moves each limit's backlog on by what was taken from its room; returns the limits that moved.
local function move_backlogs(batch, backlogs, rooms_before, rooms)
  local policies, policy_of, moved = batch.policies, batch.policy_of, {}
  for limit = 1, #backlogs do
    local taken = rooms_before[limit] - rooms[limit]
    if taken > 0 then
      backlogs[limit] = backlogs[limit] + taken * policies[policy_of[limit]][2]
      moved[#moved + 1] = limit
    end
  end
  return moved
end

-- Returns for each refused candidate its binding layer and how long until that has room. Waits are
-- told as of the end of the call: what this call admitted stands before everyone it refused.
local function explain(batch, refused, backlogs, rooms)
  local policies, policy_of, queued, refusals = batch.policies, batch.policy_of, {}, {}
  for _, candidate in ipairs(refused) do
    local at = 3 * candidate
    local limits = {batch.takes[at - 2], batch.takes[at - 1], unpack(batch.routes[batch.takes[at]])}
    local layer, wait = LAYER_IN_FLIGHT, 0
    for _, limit in ipairs(limits) do
      if rooms[limit] < 1 then
        local policy = policies[policy_of[limit]]
        local turn = queued[limit] or 0
        queued[limit] = turn + 1
        local until_room = backlogs[limit] + (turn + 1 - policy[3]) * policy[2]
        if until_room > wait then layer, wait = policy[1], until_room end
      end
    end
    local n = #refusals
    refusals[n + 1], refusals[n + 2], refusals[n + 3] = candidate, layer, math.ceil(wait)
  end
  return refusals
end

local function admit(keys, args)
  check_call(keys, 3, args, 3)
  local batch = read_batch(args[2], args[3])
  local now = now_us()
  local in_flight = redis.call('SCARD', keys[1])
  local reconciled = is_reconciled(keys[2])
  if not reconciled then add_unreconciled_limit(batch, keys[3]) end
  check_policies(batch.policies)
  local backlogs, rooms_before, rooms = read_limits(batch, now)

  local admitted, refused = decide(batch, rooms, in_flight)
  local moved = move_backlogs(batch, backlogs, rooms_before, rooms)
  local refusals = explain(batch, refused, backlogs, rooms)

  -- Point of no return.
  for_runs(#admitted, function(first, last)
    in_flight = in_flight + redis.call('SADD', keys[1], unpack(admitted, first, last))
  end)
  local call, ceil, floor = redis.call, math.ceil, math.floor
  for i = 1, #moved do
    local key, backlog = batch.keys[moved[i]], backlogs[moved[i]]
    call('SET', key, floor(now + backlog + 0.5), 'PX', ceil(backlog / 1000))
  end
  return cmsgpack.pack({reconciled and 1 or 0, in_flight, refusals, backlogs})
end

-- settle, release --------------------------------------------------------------------------------

local function remove(in_flight_key, ids)
  local members, removed = {}, 0
  for first = 1, #ids, ID_BYTES do
    members[#members + 1] = string.sub(ids, first, first + ID_BYTES - 1)
  end
  for_runs(#members, function(first, last)
    removed = removed + redis.call('SREM', in_flight_key, unpack(members, first, last))
  end)
  return removed
end

local function settle(keys, args)
  check_call(keys, 1, args, 4)
  check_ids(args[2])

  -- Point of no return.
  local removed = remove(keys[1], args[2])
  if args[4] ~= '' then redis.call('PUBLISH', args[3], args[4]) end
  return removed
end

local function release(keys, args)
  check_call(keys, 1, args, 2)
  check_ids(args[2])

  -- Point of no return.
  return remove(keys[1], args[2])
end

-- reconcile --------------------------------------------------------------------------------------

local function reconcile_begin(keys, args)
  check_call(keys, 3, args, 2)
  if args[2] == '' then fail('TIDEGATE_USAGE', 'a token must not be empty') end
  local now_ms = math.floor(now_us() / 1000)
  local in_flight = redis.call('SCARD', keys[1])
  local reconciled = is_reconciled(keys[2])

  -- Point of no return. The first reconciler after a load names this incarnation by its token.
  incarnation = incarnation or args[2]
  redis.call('SET', keys[3], incarnation, 'PX', RECONCILING_MS)
  return {now_ms, in_flight, reconciled and 1 or 0}
end

local function reconcile_finish(keys, args)
  check_call(keys, 2, args, 1)
  -- A flush since begin has removed this key; a restart or a failover has changed the incarnation.
  local began_in = redis.call('GET', keys[2])
  if not began_in or began_in ~= incarnation then return 0 end

  -- Point of no return.
  redis.call('SET', keys[1], incarnation)
  redis.call('DEL', keys[2])
  return 1
end

local function state(keys, args)
  check_call(keys, 2, args, 1)
  return {redis.call('SCARD', keys[1]), is_reconciled(keys[2]) and 1 or 0}
end

redis.register_function{function_name = 'tidegate_version', flags = {'no-writes', 'allow-stale'},
  callback = function() return VERSION end}
redis.register_function{function_name = 'tidegate_state', callback = state, flags = {'no-writes'}}
redis.register_function('tidegate_admit', admit)
redis.register_function{function_name = 'tidegate_settle', callback = settle,
  flags = {'allow-oom'}}
redis.register_function{function_name = 'tidegate_release', callback = release,
  flags = {'allow-oom'}}
redis.register_function{function_name = 'tidegate_reconcile_begin', callback = reconcile_begin,
  flags = {'allow-oom'}}
redis.register_function{function_name = 'tidegate_reconcile_finish', callback = reconcile_finish,
  flags = {'allow-oom'}}

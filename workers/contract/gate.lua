#!lua name=tidegate
--[==[
The gate: admission of purchase intents, on one Valkey (7.2 or later) or Redis (7.0 or later).

WHY ONE CALL PER BATCH. Every limit is checked, and only then is any consumed, inside one atomic
call: an intent that one layer refuses costs the other layers nothing. What a batch shares is read
once and written once. The server does not roll a failed function back, so each function gathers,
decides, and only then applies: whatever can fail stands above "point of no return". No policy
lives here: every number comes as an argument, or was published by the governor. The clock is the
server's TIME, never a caller's.

RATE LIMITS are GCRA, the generic cell rate algorithm, in its virtual scheduling form: ITU-T
Recommendation I.371, annex A; ATM Forum Traffic Management 4.0, section 4.4.2; as a limiter in
Redis: https://brandur.org/rate-limiting. A limit of `rate` a second with `burst` keeps one number,
its theoretical arrival time (TAT). With interval T = 1,000,000 / rate, the backlog is
max(0, TAT - now); an intent fits while backlog <= (burst - 1) * T, and taking it adds T. So the
room, the number of intents that fit at once, is floor(burst - backlog / T): a whole number, which
is what `decide` counts down. Departures from the papers: half a microsecond of backlog is taken
for rounding; a backlog above burst * T, which only a clock set back or a changed rate can leave,
is cut to it; and the k-th refusal of one call is told to wait k - 1 intervals longer, so that all
who come back when told to find room.

IN-FLIGHT is a set of intent ids, not a counter, so that settling twice is settling once. The set
can lose its memory: by FLUSHALL, a restart, a failover to a replica that lags. Two things together
say that it has been reconciled with the journal: the epoch key, which a flush removes, and
`incarnation` below, which lives in this library's own memory and so survives no restart, no
failover and no new load of the library. While they differ, only the unreconciled rate is taken.

THE POLICY is the governor's: level, rates, longest wait. Governors may be many and slow; one leads.
Its lease is a record of owner, fencing epoch and end. Whoever leads next has a higher epoch: one
more than any that is known here, and no less than TIME in milliseconds, so that epochs grow across
a flush as well. A policy of a lower epoch than the leader's or the last publisher's is refused: a
governor that slept through its lease cannot undo what its successor said. A policy holds as long
as its own lease. When that has lapsed, its level and its admitted rate hold no longer: a dead
governor must not keep the shop closed. What it measured last goes on bounding the wait, for nobody
knows better; but its service rate then counts for service_per_s_min at least, so that a last rate
near zero does not close the shop either. What an operator ordered comes with each call and outranks
what is published, until its own end, also where no caller can read that it was lifted; only numbers
that the order leaves open are the published ones, and of two longest waits the shorter holds.

LEVELS, by rank: 0 normal; 1 throttled: issuance is refused; 2 shedding: that, and the admitted rate
is bounded, by class; 3 closed: all are refused. Within one call the better class is taken first,
then the earlier candidate, at every level, of all that is scarce.

SHARES AT SHEDDING. The admitted rate R is one limit for all; each class has a cap, a part of R; and
each class of each gateway that asked lately (a cell) has a guaranteed rate. A candidate passes if
its cell has room, or else if its cap and the total both have: what the guarantees leave goes to who
comes first. Every admission is taken from the total and the cap, even where they have no room:
their debt is kept, up to debt_us, and whoever comes first waits until it is paid. So R and the caps
hold in the long run, because the guarantees add up to no more: with the classes that asked lately,
a class's guarantee is its part of their floors, but `guaranteed` (0.9, say) of its cap at most, and
shared evenly by its gateways. Why cells, and not floors of classes alone: in a flood the total and
the caps are full at all times, and whoever asks more often gets more of what becomes free; only a
rate of one's own cannot be crowded out. Why even shares, and no weights: gateways are made by the
operator, who bounds each by a rate limit anyway; a small one that does not use its share leaves it
to the large ones. Why floors are scaled to the classes that ask: else a day of nothing but plain
orders would share most of its capacity by who is quickest. Bursts here are short, one
intent and about 0.1 s of the rate: what is admitted must be served in time. (The one is for slow
rates: without it, what a rate brings between two askings would not fit on what was left over.)

DEADLINE. The predicted wait is in-flight / service rate, those included whom this call admits. Who
would wait longer than its ttl_ms or the policy's wait_max_ms is refused, and told when the excess
will have been served. This bounds a queue and no rate: who serves faster than was measured makes
room faster, so a rate that is told too low costs nothing while its queue keeps the workers busy.
Where none was measured, service_per_s_min is the guess that ttl_ms is judged by: else a flood that
comes before the first measure, or without any governor, is accepted into a queue which outlasts its
deadlines. wait_max_ms does not bind by a guess, and no predicted wait is told by it.

STOCK AND BUDGET. Whoever reads a balance from the database tells it with its version; the highest
version stays, and being told the same again keeps it fresh. A version older than a minute gives way
to any: a restored database counts from lower ones. The units that a candidate would take of a known
balance are held under its id while it is in flight, and counted per balance ("ahead"); so left -
ahead is what a newcomer can still get. An id is held once and returned once, whoever settles or
releases it how often. A candidate is refused finally if it wants more than is available and
reserved together, as committed; else, not finally, if left - ahead is less than it wants. What is
unknown, or was told more than balance_age_us_max ago, judges nobody: the database decides. How fast
a balance goes is a mean of what left between two tellings, weighed by the time between them; by it
whoever is refused for lack of a rate hears how long what it wants will last. After a flush both
balances and holds are unknown, and those who were admitted before a balance was known are not held:
the gate then lets more through than there is, never less.

KEYS. {p} is the deployment's prefix; its braces keep all keys in one slot of a cluster.
  {p}:in_flight              set of 16-byte intent ids; no expiry
  {p}:epoch                  string, the incarnation that was reconciled; no expiry
  {p}:unreconciled           string, TAT; expires when the TAT has passed
  {p}:reconciling:<token>    string, the incarnation a reconciliation began in; expires in 2 minutes
  {p}:user:<hash>  {p}:conversation:<hash>  {p}:gateway:<id>  {p}:campaign:<id>  {p}:sku:<ids>
  {p}:merchant:<id>
                             string, TAT in microseconds of Unix time; expires when it has passed
  {p}:lead                   string, msgpack [fencing epoch, ends_us, lease_us, owner]; no expiry
  {p}:policy                 string, msgpack [fencing epoch, ends_us, lease_us, level,
                             admitted_per_s, service_per_s, wait_max_ms, policy]; no expiry
  {p}:level                  sorted set of cells, <class>:<gateway>, by when they last asked, in
                             microseconds; expires when none did for seen_us
  {p}:level:total  {p}:level:cap:<class>  {p}:level:<class>:<gateway>
                             string, TAT; expires when it has passed
  {p}:balances               hash: balance key -> msgpack [version, available, reserved, told_us,
                             taken_per_s]; expires a minute after the last was told
  {p}:units                  hash: 16-byte intent id -> msgpack flat [balance key, amount, ...];
                             no expiry
  {p}:ahead                  hash: balance key -> the sum of those amounts; none is 0. No expiry
The TAT keys travel inside the packed argument, or are made from {p}:level, and are not declared: a
batch of 500 has over 1,000 of them. They share the prefix, so the cluster's slot and the access
rules hold for them as well.

FUNCTIONS. The first argument of each is the version that its caller was written for. A rate or a
number that is not known is -1.

tidegate_admit_2  8 in_flight epoch unreconciled policy level balances units ahead
                  version ids packed
    ids     the candidates' 16-byte ids, joined; at most 1,000 candidates
    packed  msgpack (text as str: this cmsgpack knows no bin) of an array:
            1 bounds          [in_flight_max, balance_age_us_max, service_per_s_min]
            2 unreconciled    [interval_us, burst]
            3 ordered         [] or [level, admitted_per_s, service_per_s, wait_max_ms, until_ms]
            4 shares          [burst_us, debt_us, seen_us, guaranteed, floor and cap of each class];
                              classes: 1 appointment, 2 redemption, 3 order, 4 issuance
            5 rates           [layer, interval_us, burst] each; layers: 1 user, 2 conversation,
                              3 gateway, 4 campaign, 5 sku, 6 in_flight, 7 merchant, 8 level,
                              9 deadline, 10 stock, 11 budget
            6 keys            the batch's limits, each once; below, a limit is its place from 1
            7 rate_of         for each limit, the place of its rate
            8 gateways        ids, each once
            9 balances        keys, each once
            10 balance_layers for each balance, 10 or 11
            11 wants          each flat: balance, amount, ...; a balance once in each
            12 routes         lists of limits that candidates share
            13 facts          for each route: gateway, 1 if a merchant is paused (else 0), want
                              (0: none)
            14 takes          for each candidate: user limit, conversation limit (0: none), route
            15 classes        for each candidate; []: all are orders
            16 ttls_ms        for each candidate; only one: it is all candidates'
    reply   msgpack array:
            1 reconciled      1 or 0
            2 in_flight       after this call
            3 refusals        flat: candidate from 1, binding layer, wait_us; others are admitted
            4 backlogs_us     of the limits, after this call
            5 level           that was in force
            6 policy_fresh    1 or 0: whether the published policy's lease holds
            7 predicted_wait_ms  after this call, by the service rate that counts, be its policy
                              fresh or lapsed; 0 if none is known
            8 shortages       flat, for each refusal by layer 10 or 11: candidate, final (1 or 0),
                              ahead, left
            9 lasts           flat, for other refusals: candidate, until when what it wants lasts as
                              it is taken now, in ms of Unix time; none where nobody knows
            10 amounts        for each of the shortages, how much the candidate wants of the balance
            What binds, first to last: a balance that is gone for good; level (closed, or paused
            issuance) and merchant (paused), with a wait of 0, for nobody here knows when they end;
            a balance whose rest is on its way to others; else the layer with the longest wait, of
            equals the first: rate limits in their order, merchant, the unreconciled rate (as layer
            6), deadline, level. Layer 6 with 0 is the in-flight bound, and then the gate cannot
            know when there will be room.
tidegate_settle_2   4 in_flight units ahead balances   version ids channel announcement balances
    Takes the ids out of flight, returns their units, stores the balances (as tidegate_tell; '':
    none), then publishes the announcement unless it is empty: whoever hears it finds the gate told.
    Reply: how many of the ids were in flight.
tidegate_release_2  3 in_flight units ahead   version ids
    Takes the ids out of flight, returns their units. Reply: how many of them were in flight.
tidegate_tell       1 balances   version balances
    balances: msgpack flat [key, version, available, reserved, ...]. Reply: how many were news.
tidegate_lead       2 lead policy   version owner lease_ms
    Reply: the fencing epoch if the owner leads now, for lease_ms from now; 0 if another does. Who
    comes back after its lease has lapsed leads anew.
tidegate_publish    2 lead policy   version fencing_epoch lease_ms numbers policy
    numbers: msgpack [level, admitted_per_s, service_per_s, wait_max_ms]; policy: bytes for who
    asks. Reply: 1, or 0 if a higher epoch leads or has published.
tidegate_published  3 in_flight epoch policy   version
    Reply: [in_flight, reconciled (1 or 0), fencing epoch, lease_left_ms (0: lapsed), policy].
tidegate_reconcile_begin   3 in_flight epoch reconciling:<token>   version token
    Reply: [now_ms, in_flight, reconciled (1 or 0)].
tidegate_reconcile_finish  2 epoch reconciling:<token>   version
    Reply: 1: the set counts as reconciled; 0: it may have lost its memory since begin.
The caller reconciles between begin and finish, in small steps of plain commands: gate_memory.py.
tidegate_reconcile_units   3 in_flight units ahead   version cursor
    One step through the held units: returns those whose id is not in flight. The first cursor is
    "0". The last step counts the holds anew, if they are few enough for one step: only a deleted
    key makes the counts wrong, and that can wait for a quieter minute.
    Reply: [next cursor ("0": done), how many ids were returned].
tidegate_state   2 in_flight epoch   version
    Reply: [in_flight, reconciled (1 or 0)].
tidegate_version 0
    Reply: the library's version. Who loads the library asks first, so as not to undo newer work.

ERRORS.  TIDEGATE_OUTDATED  the library is older than its caller, who loads its own and repeats.
         TIDEGATE_USAGE     the call is malformed. As after any other error, nothing was written.
A library answers callers of every earlier version; a call that changes gets a new function name.

OUT OF MEMORY. admit may not run then (it lacks allow-oom), and so fails closed. The others may:
they free memory, or take a few bytes so that memory can be freed and the governor be heard.

ONE CALL: a candidate with the limits of a user (1 a second, burst 5) and a gateway (50, 100).
    packed = msgpack([[1000, 3000000, 5], [200000, 1], [],
                      [100000, 1000000, 2000000, 0.9, 0.6, 0.8, 0.2, 0.9, 0.08, 0.6, 0.02, 0.2],
                      [[1, 1000000, 5], [3, 20000, 100]],
                      ["{p}:user:9f", "{p}:gateway:g1"], [1, 2], ["g1"], [], [], [],
                      [[2]], [1, 0, 0], [1, 0, 1], [], [60000]])
    FCALL tidegate_admit_2 8 {p}:in_flight {p}:epoch {p}:unreconciled {p}:policy {p}:level
          {p}:balances {p}:units {p}:ahead 3 <16 bytes> <packed>
    -> msgpack([0, 1, [], [1000000, 20000, 200000], 0, 0, 0, [], [], []])
--]==]

local VERSION = 4
local CANDIDATES_MAX = 1000    -- Bounds how long one call holds the server: about 10 ms.
local UNPACK_MAX = 1000        -- Lua's stack takes just under 8,000 values; even, to keep pairs.
local ID_BYTES = 16
local NORMAL, THROTTLED, SHEDDING, CLOSED = 0, 1, 2, 3
local LAYER_IN_FLIGHT, LAYER_MERCHANT, LAYER_LEVEL, LAYER_DEADLINE = 6, 7, 8, 9
local CLASS_ORDER, CLASS_ISSUANCE = 3, 4
local ROUNDING_US = 0.5
local DIVISOR_MIN = 0.001      -- A rate, or a sum of shares, may be 0 and must not divide.
local RECONCILING_MS = 120000  -- An abandoned reconciliation leaves its key no longer than this.
local BALANCES_KEPT_MS = 60000 -- Longer than any two tellings of a balance lie apart.
local TAKING_US = 5000000      -- The memory of how fast a balance goes: some tellings long.
local LASTS_S_MAX = 86400      -- Longer is no news, and a rate of nearly 0 must not overflow.
local UNITS_STEP = 500         -- Held ids looked at in one step: about a millisecond.
local RECOUNT_MAX = 2000       -- Held ids counted anew in one step: about 3 ms.

local incarnation = nil

-- Libraries of functions share no code: `fail` and `check_call` stand in gate.lua and calendar.lua.
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

-- Returns the argument as a whole number of at least 1.
local function natural(arg, name)
  local number = tonumber(arg)
  if not number or not (number >= 1) or number % 1 ~= 0 then
    fail('TIDEGATE_USAGE', name .. ' must be a whole number of 1 or more')
  end
  return number
end

-- Returns the array of at least `count` that a text packs; nil if it does not.
local function unpacked(text, count)
  if not text then return nil end
  local known, fields = pcall(cmsgpack.unpack, text)
  if known and type(fields) == 'table' and #fields >= count then return fields end
end

local function now_us()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local function is_reconciled(epoch_key)
  return incarnation ~= nil and redis.call('GET', epoch_key) == incarnation
end

-- Returns how long a lease has left, 0 at least. One that has more than it was given for was given
-- by a clock that has been set back since: it counts as lapsed.
local function left_us(ends_us, lease_us, now)
  local left = ends_us - now
  if left <= 0 or left > lease_us then return 0 end
  return left
end

-- Returns the lead as it was given last; before that, as one that has lapsed.
local function read_lead(lead_key)
  return unpacked(redis.call('GET', lead_key), 4) or {0, 0, 0, ''}
end

-- Returns the policy as published last; before that, as one that has lapsed and knew nothing.
local function read_published(policy_key)
  return unpacked(redis.call('GET', policy_key), 8) or {0, 0, 0, NORMAL, -1, -1, math.huge, ''}
end

-- Visits 1..count in runs short enough for unpack.
local function for_runs(count, visit)
  for first = 1, count, UNPACK_MAX do
    visit(first, math.min(first + UNPACK_MAX - 1, count))
  end
end

-- Returns the values of a hash's fields, in their order; false for what it has not.
local function read_fields(key, fields)
  local values = {}
  for_runs(#fields, function(first, last)
    for _, value in ipairs(redis.call('HMGET', key, unpack(fields, first, last))) do
      values[#values + 1] = value
    end
  end)
  return values
end

-- admit: gather ----------------------------------------------------------------------------------

-- Returns the candidates' places, better classes first; nil: as they are.
local function precedence(classes, count)
  if #classes == 0 then return nil end
  local order = {}
  for class = 1, CLASS_ISSUANCE do
    for candidate = 1, count do
      if classes[candidate] == class then order[#order + 1] = candidate end
    end
  end
  if #order ~= count or #classes ~= count then
    fail('TIDEGATE_USAGE', 'classes must be 1 to ' .. CLASS_ISSUANCE .. ' for each id, or none')
  end
  return order
end

local function read_batch(ids, packed)
  check_ids(ids)
  local fields = unpacked(packed, 16)
  if not fields then fail('TIDEGATE_USAGE', 'packed must be a msgpack array of 16') end
  local bounds, shares = fields[1], fields[4]
  if #bounds ~= 3 then fail('TIDEGATE_USAGE', 'bounds must be 3') end
  local batch = {
    ids = ids, count = #ids / ID_BYTES,
    in_flight_max = bounds[1], balance_age_us_max = bounds[2], service_per_s_min = bounds[3],
    unreconciled = fields[2], ordered = fields[3],
    burst_us = shares[1], debt_us = shares[2], seen_us = shares[3], guaranteed = shares[4],
    shares = shares, rates = fields[5], keys = fields[6], rate_of = fields[7],
    gateways = fields[8], balances = fields[9], balance_layers = fields[10], wants = fields[11],
    routes = fields[12], facts = fields[13], takes = fields[14], classes = fields[15],
    ttls_ms = fields[16],
  }
  local count = batch.count
  if count > CANDIDATES_MAX or #batch.takes ~= 3 * count then
    fail('TIDEGATE_USAGE', 'takes must be 3 for each id, of at most ' .. CANDIDATES_MAX .. ' ids')
  end
  if #batch.facts ~= 3 * #batch.routes or #batch.ttls_ms ~= 1 and #batch.ttls_ms ~= count then
    fail('TIDEGATE_USAGE', 'facts must be 3 for each route, ttls_ms one for each id or for all')
  end
  batch.order = precedence(batch.classes, count)
  return batch
end

local function class_of(batch, candidate)
  return batch.classes[candidate] or CLASS_ORDER
end

local function gateway_of(batch, candidate)
  return batch.facts[3 * batch.takes[3 * candidate] - 2]
end

local function is_paused(batch, route)
  return batch.facts[3 * route - 1] ~= 0
end

-- Returns nil if those on the route want nothing.
local function want_of(batch, route)
  return batch.wants[batch.facts[3 * route]]
end

-- Returns the policy in force: what was published, under what is ordered. -1: not known. The deadline
-- goes by trusted_per_s: the service rate, or where that is not known a guess, which no longest wait
-- was set for.
local function read_policy(batch, policy_key, now)
  local published, ordered = read_published(policy_key), batch.ordered
  local policy = {level = published[4], admitted_per_s = published[5],
    service_per_s = published[6], wait_max_ms = published[7],
    fresh = left_us(published[2], published[3], now) > 0}
  if not policy.fresh then
    policy.level, policy.admitted_per_s = NORMAL, -1
    if policy.service_per_s > 0 then
      policy.service_per_s = math.max(policy.service_per_s, batch.service_per_s_min)
    end
  end
  if #ordered > 0 and (ordered[5] < 0 or now < ordered[5] * 1000) then
    policy.level = ordered[1]
    if ordered[2] >= 0 then policy.admitted_per_s = ordered[2] end
    if ordered[3] >= 0 then policy.service_per_s = ordered[3] end
    policy.wait_max_ms = math.min(policy.wait_max_ms, ordered[4])
  end
  policy.trusted_per_s = policy.service_per_s
  if policy.service_per_s <= 0 then
    policy.trusted_per_s, policy.wait_max_ms = batch.service_per_s_min, math.huge
  end
  return policy
end

-- Adds a limit to those that the batch brought; returns its place.
local function add_limit(batch, key, layer, interval, burst, debt_us)
  local rates, limit = batch.rates, #batch.keys + 1
  rates[#rates + 1] = {layer, interval, burst, debt_us}
  batch.keys[limit], batch.rate_of[limit] = key, #rates
  return limit
end

-- The unreconciled rate is one more limit on every route.
local function add_unreconciled_limit(batch, key)
  local interval, burst = batch.unreconciled[1], batch.unreconciled[2]
  local limit = add_limit(batch, key, LAYER_IN_FLIGHT, interval, burst)
  for _, route in ipairs(batch.routes) do
    route[#route + 1] = limit
  end
end

-- Returns the cells that asked lately or ask now: for each class how many, and those of the batch.
local function read_cells(batch, level_key, now)
  local counts, counted, asking = {}, {}, {}
  local function count(name, class)
    if not counted[name] then
      counted[name] = true
      counts[class] = (counts[class] or 0) + 1
    end
  end
  for candidate = 1, batch.count do
    local class, gateway = class_of(batch, candidate), gateway_of(batch, candidate)
    asking[class] = asking[class] or {}
    if not asking[class][gateway] then
      asking[class][gateway] = class .. ':' .. batch.gateways[gateway]
      count(asking[class][gateway], class)
    end
  end
  local lately = redis.call('ZRANGEBYSCORE', level_key, now - batch.seen_us, now + batch.seen_us)
  for _, name in ipairs(lately) do
    count(name, tonumber(string.sub(name, 1, 1)))
  end
  return counts, asking
end

-- Adds the limits of `shedding`; returns their places: `total`, `caps` by class, `cells` by class
-- and gateway, with the cells' names. Nil where no rate is bounded.
local function add_level_limits(batch, policy, level_key, now)
  if policy.level ~= SHEDDING or policy.admitted_per_s < 0 then return nil end
  local counts, asking = read_cells(batch, level_key, now)
  local shares, guaranteed, floors = batch.shares, batch.guaranteed, 0
  for class in pairs(counts) do floors = floors + shares[3 + 2 * class] end
  local function add(name, part, debt_us)
    local interval = 1000000 / math.max(part * policy.admitted_per_s, DIVISOR_MIN)
    local burst = 1 + batch.burst_us / interval
    return add_limit(batch, level_key .. ':' .. name, LAYER_LEVEL, interval, burst, debt_us)
  end
  local level = {total = add('total', 1, batch.debt_us), caps = {}, cells = {}, names = {},
    full = {}}
  for class, names in pairs(asking) do
    local floor, cap = shares[3 + 2 * class], shares[4 + 2 * class]
    local part = math.min(guaranteed * cap, guaranteed * floor / math.max(floors, DIVISOR_MIN))
    level.caps[class], level.cells[class] = add('cap:' .. class, cap, batch.debt_us), {}
    for gateway, name in pairs(names) do
      level.cells[class][gateway] = add(name, math.max(part, floor) / counts[class])
      level.names[#level.names + 1] = name
    end
  end
  return level
end

local function check_rates(rates)
  for _, rate in ipairs(rates) do
    if not (rate[2] > 0 and rate[3] >= 1) then  -- So written, NaN fails too.
      fail('TIDEGATE_USAGE', 'a rate needs interval_us > 0 and burst >= 1')
    end
  end
end

-- Returns for each limit its backlog, its room, and its room again, for `decide` to count down.
-- Limit 0 is no limit: it always has room.
local function read_limits(batch, now)
  local backlogs, rooms_before, rooms = {}, {}, {[0] = math.huge}
  local rates, rate_of = batch.rates, batch.rate_of
  local floor = math.floor
  for_runs(#batch.keys, function(first, last)
    local tats = redis.call('MGET', unpack(batch.keys, first, last))
    for limit = first, last do
      local rate = rates[rate_of[limit]]
      local interval, burst = rate[2], rate[3]
      local backlog = (tonumber(tats[limit - first + 1]) or now) - now
      local backlog_max = interval * burst + (rate[4] or 0)
      if backlog < 0 then backlog = 0 end
      if backlog > backlog_max then backlog = backlog_max end
      backlogs[limit] = backlog
      rooms[limit] = floor(burst - (backlog - ROUNDING_US) / interval)
      rooms_before[limit] = rooms[limit]
    end
  end)
  return backlogs, rooms_before, rooms
end

-- Returns what is known of the batch's balances, by their places; nil: nothing at all.
local function read_balances(batch, balances_key, ahead_key, now)
  local keys = batch.balances
  if #keys == 0 or redis.call('EXISTS', balances_key) == 0 then return nil end
  local told, ahead, balances = read_fields(balances_key, keys), read_fields(ahead_key, keys), {}
  for place, key in ipairs(keys) do
    local fields = unpacked(told[place], 4)
    if fields then
      balances[place] = {
        key = key, layer = batch.balance_layers[place], left = fields[2], reserved = fields[3],
        taken_per_s = fields[5] or 0,
        fresh = left_us(fields[4] + batch.balance_age_us_max, batch.balance_age_us_max, now) > 0,
        ahead = math.max(0, tonumber(ahead[place]) or 0),
      }
    end
  end
  return next(balances) and balances
end

-- admit: decide ----------------------------------------------------------------------------------

-- Returns the first balance that is too low for a want even if all that is reserved comes back, else
-- the first that is too short now; how much it wants of that; and whether no waiting helps.
local function find_shortage(balances, want)
  local short, amount = nil, nil
  for i = 1, #want, 2 do
    local balance = balances[want[i]]
    if balance and balance.fresh then
      if balance.left + balance.reserved < want[i + 1] then return balance, want[i + 1], true end
      if not short and balance.left - balance.ahead < want[i + 1] then
        short, amount = balance, want[i + 1]
      end
    end
  end
  return short, amount, false
end

-- Returns the layer that refuses whatever the rates are, and as `find_shortage` if it is that.
local function find_bar(batch, policy, balances, candidate, route)
  local want = balances and want_of(batch, route)
  local short, amount, final = nil, nil, false
  if want then short, amount, final = find_shortage(balances, want) end
  if final then return short.layer, short, amount, final end
  if policy.level >= CLOSED then return LAYER_LEVEL end
  if policy.level >= THROTTLED and class_of(batch, candidate) == CLASS_ISSUANCE then
    return LAYER_LEVEL
  end
  if is_paused(batch, route) then return LAYER_MERCHANT end
  if short then return short.layer, short, amount, false end
end

-- Within a call rooms only shrink. So a route or a cell that has none is remembered as `full`, and
-- the many that a flood brings on it are refused at a glance.

local function route_has_room(batch, rooms, full, route)
  if full[route] then return false end
  local limits = batch.routes[route]
  for i = 1, #limits do
    if rooms[limits[i]] < 1 then
      full[route] = true
      return false
    end
  end
  return true
end

local function level_has_room(level, rooms, class, cell)
  if level.full[cell] then return false end
  if rooms[cell] >= 1 then return true end
  if rooms[level.caps[class]] >= 1 and rooms[level.total] >= 1 then return true end
  level.full[cell] = true
  return false
end

local function take_room(rooms, user, conversation, limits)
  rooms[user] = rooms[user] - 1
  rooms[conversation] = rooms[conversation] - 1
  for i = 1, #limits do
    rooms[limits[i]] = rooms[limits[i]] - 1
  end
end

local function take_level_room(level, rooms, class, cell)
  local cap, total = level.caps[class], level.total
  if rooms[cell] >= 1 then rooms[cell] = rooms[cell] - 1 end
  rooms[cap] = rooms[cap] - 1
  rooms[total] = rooms[total] - 1
end

-- Returns how many may be in flight before a candidate so that it is served in time.
local function in_time_max(batch, policy, candidate)
  local ttl_ms = batch.ttls_ms[candidate] or batch.ttls_ms[1]
  return policy.trusted_per_s * math.min(ttl_ms, policy.wait_max_ms) / 1000
end

local function take_units(balances, want)
  for i = 1, #want, 2 do
    local balance = balances[want[i]]
    if balance then balance.ahead = balance.ahead + want[i + 1] end
  end
end

-- Whether anything but rate limits and the in-flight bound can refuse any of the batch.
local function has_bars(batch, policy, balances)
  if balances or policy.level > NORMAL then return true end
  for route = 1, #batch.routes do
    if is_paused(batch, route) then return true end
  end
  return false
end

-- Takes what a candidate needs of every layer that counts, if all have room. `level` is nil where
-- no class is limited.
local function take_if_fits(batch, rooms, full, level, candidate, user, conversation, route)
  local class, cell = nil, nil
  if level then
    class = class_of(batch, candidate)
    cell = level.cells[class][gateway_of(batch, candidate)]
    if not level_has_room(level, rooms, class, cell) then return false end
  end
  if rooms[user] < 1 or rooms[conversation] < 1 then return false end
  if not route_has_room(batch, rooms, full, route) then return false end
  take_room(rooms, user, conversation, batch.routes[route])
  if level then take_level_room(level, rooms, class, cell) end
  return true
end

-- Takes the candidates in their precedence. Returns the admitted; the refused; of those the layers
-- that bar them whatever the rates are; and the shortages and amounts, as the reply tells them.
-- A limit or a route that is not there faults here on nil, before anything is written.
local function decide(batch, policy, balances, level, rooms, in_flight)
  local takes, order, in_flight_max = batch.takes, batch.order, batch.in_flight_max
  local admitted, refused, bars, shortages, amounts, full = {}, {}, {}, {}, {}, {}
  local barring, bars_of = has_bars(batch, policy, balances), {}
  local common_max = #batch.ttls_ms == 1 and in_time_max(batch, policy, 1)
  for turn = 1, batch.count do
    local candidate = order and order[turn] or turn
    local at = 3 * candidate
    local user, conversation, route = takes[at - 2], takes[at - 1], takes[at]
    local bar, short, amount, final
    if barring then
      -- Issuance is barred by its class. Others of a route fare alike until units are taken.
      local issues = class_of(batch, candidate) == CLASS_ISSUANCE
      local known = not issues and bars_of[route]
        or {find_bar(batch, policy, balances, candidate, route)}
      if not issues then bars_of[route] = known end
      bar, short, amount, final = known[1], known[2], known[3], known[4]
    end
    if not bar and in_flight < in_flight_max
        and in_flight <= (common_max or in_time_max(batch, policy, candidate))
        and take_if_fits(batch, rooms, full, level, candidate, user, conversation, route) then
      local want = balances and want_of(batch, route)
      if want then
        take_units(balances, want)
        bars_of = {}
      end
      in_flight = in_flight + 1
      admitted[#admitted + 1] = candidate
    else
      refused[#refused + 1] = candidate
      bars[candidate] = bar
      if short then
        local n = #shortages
        shortages[n + 1], shortages[n + 2] = candidate, final and 1 or 0
        shortages[n + 3], shortages[n + 4] = short.ahead, short.left
        amounts[#amounts + 1] = amount
      end
    end
  end
  return admitted, refused, bars, shortages, amounts
end

-- Moves each limit's backlog on by what was taken from its room; returns the limits that moved.
local function move_backlogs(batch, backlogs, rooms_before, rooms)
  local rates, rate_of, moved = batch.rates, batch.rate_of, {}
  for limit = 1, #backlogs do
    local taken = rooms_before[limit] - rooms[limit]
    if taken > 0 then
      backlogs[limit] = backlogs[limit] + taken * rates[rate_of[limit]][2]
      moved[#moved + 1] = limit
    end
  end
  return moved
end

-- Returns those of a route's limits that have no room.
local function full_limits(rooms, limits)
  local full = {}
  for i = 1, #limits do
    if rooms[limits[i]] < 1 then full[#full + 1] = limits[i] end
  end
  return full
end

-- Returns for each refused candidate its binding layer and how long until that has room. Waits are
-- told as of the end of the call: what this call admitted stands before everyone it refused.
local function explain(batch, policy, level, refused, bars, backlogs, rooms, in_flight)
  local rates, rate_of, takes = batch.rates, batch.rate_of, batch.takes
  local full_of, queued, refusals = {}, {}, {}
  local common_max = #batch.ttls_ms == 1 and in_time_max(batch, policy, 1)
  local layer, wait
  local function turn_at(place)
    local turn = queued[place] or 0
    queued[place] = turn + 1
    return turn
  end
  local function consider(layer_new, wait_new)
    if wait_new > wait then layer, wait = layer_new, wait_new end
  end
  local function consider_full(limit)
    local rate = rates[rate_of[limit]]
    consider(rate[1], backlogs[limit] + (turn_at(limit) + 1 - rate[3]) * rate[2])
  end
  local function consider_all(candidate)
    local at = 3 * candidate
    local user, conversation, route = takes[at - 2], takes[at - 1], takes[at]
    if rooms[user] < 1 then consider_full(user) end
    if rooms[conversation] < 1 then consider_full(conversation) end
    local full = full_of[route] or full_limits(rooms, batch.routes[route])
    full_of[route] = full
    for i = 1, #full do consider_full(full[i]) end
    local excess = in_flight - (common_max or in_time_max(batch, policy, candidate))
    if excess > 0 then
      consider(LAYER_DEADLINE, (excess + turn_at('deadline')) / policy.trusted_per_s * 1000000)
    end
    if level then
      local class = class_of(batch, candidate)
      local cell = level.cells[class][gateway_of(batch, candidate)]
      if not level_has_room(level, rooms, class, cell) then consider_full(cell) end
    end
  end
  for _, candidate in ipairs(refused) do
    layer, wait = bars[candidate] or LAYER_IN_FLIGHT, 0
    if not bars[candidate] then consider_all(candidate) end
    local n = #refusals
    refusals[n + 1], refusals[n + 2], refusals[n + 3] = candidate, layer, math.ceil(wait)
  end
  return refusals
end

-- Returns for how long a want's balances last as they are taken now, in seconds; nil: nobody knows.
local function lasts_s(balances, want)
  local least = nil
  for i = 1, #want, 2 do
    local balance = balances[want[i]]
    if balance and balance.fresh and balance.taken_per_s > 0 then
      least = math.min(least or LASTS_S_MAX, balance.left / balance.taken_per_s)
    end
  end
  return least
end

-- Returns flat, for those whom nothing bars, until when what they want lasts.
local function read_lasts(batch, balances, refused, bars, now)
  local lasts, of_route = {}, {}
  for _, candidate in ipairs(balances and refused or {}) do
    local route = batch.takes[3 * candidate]
    local want = not bars[candidate] and want_of(batch, route)
    if want then
      if of_route[route] == nil then of_route[route] = lasts_s(balances, want) or false end
      if of_route[route] then
        lasts[#lasts + 1] = candidate
        lasts[#lasts + 1] = math.floor(now / 1000 + of_route[route] * 1000)
      end
    end
  end
  return lasts
end

-- admit: apply -----------------------------------------------------------------------------------

local function id_of(batch, candidate)
  return string.sub(batch.ids, (candidate - 1) * ID_BYTES + 1, candidate * ID_BYTES)
end

-- Returns what is to be held of known balances, by candidate: packed, and its flat list.
local function pack_holds(batch, balances, admitted)
  local holds = {}
  if not balances then return holds end
  for _, candidate in ipairs(admitted) do
    local want, hold = want_of(batch, batch.takes[3 * candidate]), {}
    for i = 1, want and #want or 0, 2 do
      local balance = balances[want[i]]
      if balance then hold[#hold + 1], hold[#hold + 2] = balance.key, want[i + 1] end
    end
    if #hold > 0 then holds[#holds + 1] = {id_of(batch, candidate), cmsgpack.pack(hold), hold} end
  end
  return holds
end

local function add_amounts(sums, hold)
  for i = 1, #hold, 2 do
    sums[hold[i]] = (sums[hold[i]] or 0) + hold[i + 1]
  end
end

-- Holds each id once: one that is held already counts no more.
local function hold_units(units_key, ahead_key, holds)
  local sums = {}
  for _, hold in ipairs(holds) do
    if redis.call('HSETNX', units_key, hold[1], hold[2]) == 1 then add_amounts(sums, hold[3]) end
  end
  for key, sum in pairs(sums) do
    redis.call('HINCRBY', ahead_key, key, string.format('%.0f', sum))
  end
end

local function remember_cells(level_key, names, seen_us, now)
  local scored = {}
  for _, name in ipairs(names) do scored[#scored + 1], scored[#scored + 2] = now, name end
  for_runs(#scored, function(first, last)
    redis.call('ZADD', level_key, unpack(scored, first, last))
  end)
  redis.call('ZREMRANGEBYSCORE', level_key, '-inf', '(' .. now - seen_us)
  redis.call('PEXPIRE', level_key, math.ceil(seen_us / 1000))
end

local function admit(keys, args)
  check_call(keys, 8, args, 3)
  local batch = read_batch(args[2], args[3])
  local now = now_us()
  local in_flight = redis.call('SCARD', keys[1])
  local reconciled = is_reconciled(keys[2])
  if not reconciled then add_unreconciled_limit(batch, keys[3]) end
  local policy = read_policy(batch, keys[4], now)
  local level = add_level_limits(batch, policy, keys[5], now)
  check_rates(batch.rates)
  local backlogs, rooms_before, rooms = read_limits(batch, now)
  local balances = read_balances(batch, keys[6], keys[8], now)

  local admitted, refused, bars, shortages, amounts =
    decide(batch, policy, balances, level, rooms, in_flight)
  local moved = move_backlogs(batch, backlogs, rooms_before, rooms)
  local refusals = explain(batch, policy, level, refused, bars, backlogs, rooms,
    in_flight + #admitted)
  local lasts = read_lasts(batch, balances, refused, bars, now)
  local holds, ids = pack_holds(batch, balances, admitted), {}
  for i = 1, #admitted do ids[i] = id_of(batch, admitted[i]) end

  -- Point of no return.
  for_runs(#ids, function(first, last)
    in_flight = in_flight + redis.call('SADD', keys[1], unpack(ids, first, last))
  end)
  local call, ceil, floor = redis.call, math.ceil, math.floor
  for i = 1, #moved do
    local key, backlog = batch.keys[moved[i]], backlogs[moved[i]]
    call('SET', key, floor(now + backlog + 0.5), 'PX', ceil(backlog / 1000))
  end
  hold_units(keys[7], keys[8], holds)
  if level then remember_cells(keys[5], level.names, batch.seen_us, now) end
  local wait_ms = policy.service_per_s > 0 and ceil(in_flight * 1000 / policy.service_per_s) or 0
  return cmsgpack.pack({reconciled and 1 or 0, in_flight, refusals, backlogs, policy.level,
    policy.fresh and 1 or 0, wait_ms, shortages, lasts, amounts})
end

-- settle, release, tell --------------------------------------------------------------------------

local function members_of(ids)
  local members = {}
  for first = 1, #ids, ID_BYTES do
    members[#members + 1] = string.sub(ids, first, first + ID_BYTES - 1)
  end
  return members
end

-- Returns which of the ids hold units, each once, and the sums by balance.
local function read_holds(units_key, members)
  local held, sums, seen = {}, {}, {}
  if redis.call('EXISTS', units_key) == 0 then return held, sums end
  for place, packed in ipairs(read_fields(units_key, members)) do
    local member = members[place]
    if packed and not seen[member] then
      seen[member], held[#held + 1] = true, member
      add_amounts(sums, unpacked(packed, 2) or {})
    end
  end
  return held, sums
end

local function return_units(units_key, ahead_key, held, sums)
  for_runs(#held, function(first, last)
    redis.call('HDEL', units_key, unpack(held, first, last))
  end)
  for key, sum in pairs(sums) do
    local rest = redis.call('HINCRBY', ahead_key, key, string.format('%.0f', -sum))
    if rest <= 0 then redis.call('HDEL', ahead_key, key) end
  end
end

-- Returns the ids that are to leave, which of them hold units, and the sums by balance.
local function read_leaving(units_key, ids)
  check_ids(ids)
  local leaving = {members = members_of(ids)}
  leaving.held, leaving.sums = read_holds(units_key, leaving.members)
  return leaving
end

-- Takes ids out of flight and returns their units; returns how many were in flight.
local function take_out(in_flight_key, units_key, ahead_key, leaving)
  local removed = 0
  for_runs(#leaving.members, function(first, last)
    removed = removed + redis.call('SREM', in_flight_key, unpack(leaving.members, first, last))
  end)
  return_units(units_key, ahead_key, leaving.held, leaving.sums)
  return removed
end

-- Returns how many units a second a balance has lost lately, when it is told anew.
local function taken_per_s(old, available, now)
  if not old then return 0 end
  local past_us, before = now - old[4], old[5] or 0
  if past_us <= 0 then return before end
  local taken = math.max(0, old[2] - available) * 1000000 / past_us
  return before + (taken - before) * past_us / (past_us + TAKING_US)
end

-- Returns those of the told balances that are news, by key, in the form they are stored in.
local function read_news(balances_key, packed, now)
  local told = packed == '' and {} or unpacked(packed, 4)
  if not told or #told % 4 ~= 0 then
    fail('TIDEGATE_USAGE', 'balances must be a msgpack array of 4 for each')
  end
  local keys, known, news = {}, {}, {}
  for i = 1, #told, 4 do keys[#keys + 1] = told[i] end
  for place, stored in ipairs(read_fields(balances_key, keys)) do
    known[keys[place]] = unpacked(stored, 4)
  end
  for i = 1, #told, 4 do
    local key, version, available, reserved = told[i], told[i + 1], told[i + 2], told[i + 3]
    if not (version >= 0 and available >= 0 and reserved >= 0) then
      fail('TIDEGATE_USAGE', 'a balance is a version, available and reserved, none below 0')
    end
    local old = known[key]
    if not old or version >= old[1]
        or left_us(old[4] + BALANCES_KEPT_MS * 1000, BALANCES_KEPT_MS * 1000, now) == 0 then
      known[key] = {version, available, reserved, now, taken_per_s(old, available, now)}
      news[key] = cmsgpack.pack(known[key])
    end
  end
  return news
end

local function store_news(balances_key, news)
  local count = 0
  for key, balance in pairs(news) do
    redis.call('HSET', balances_key, key, balance)
    count = count + 1
  end
  if count > 0 then redis.call('PEXPIRE', balances_key, BALANCES_KEPT_MS) end
  return count
end

local function settle(keys, args)
  check_call(keys, 4, args, 5)
  local leaving = read_leaving(keys[2], args[2])
  local news = read_news(keys[4], args[5], now_us())

  -- Point of no return.
  local removed = take_out(keys[1], keys[2], keys[3], leaving)
  store_news(keys[4], news)
  if args[4] ~= '' then redis.call('PUBLISH', args[3], args[4]) end
  return removed
end

local function release(keys, args)
  check_call(keys, 3, args, 2)
  local leaving = read_leaving(keys[2], args[2])

  -- Point of no return.
  return take_out(keys[1], keys[2], keys[3], leaving)
end

local function tell(keys, args)
  check_call(keys, 1, args, 2)
  local news = read_news(keys[1], args[2], now_us())

  -- Point of no return.
  return store_news(keys[1], news)
end

-- lead, publish ----------------------------------------------------------------------------------

local function lead(keys, args)
  check_call(keys, 2, args, 3)
  local owner, lease_us = args[2], natural(args[3], 'lease_ms') * 1000
  local now = now_us()
  local last = read_lead(keys[1])
  local epoch, holds = last[1], left_us(last[2], last[3], now) > 0
  if holds and last[4] ~= owner then return 0 end
  if not holds then
    epoch = math.max(epoch + 1, read_published(keys[2])[1] + 1, math.floor(now / 1000))
  end

  -- Point of no return.
  redis.call('SET', keys[1], cmsgpack.pack({epoch, now + lease_us, lease_us, owner}))
  return epoch
end

local function publish(keys, args)
  check_call(keys, 2, args, 5)
  local epoch, lease_us = natural(args[2], 'fencing_epoch'), natural(args[3], 'lease_ms') * 1000
  local numbers = unpacked(args[4], 4)
  if not numbers or not (numbers[1] >= NORMAL and numbers[1] <= CLOSED and numbers[2] >= -1
      and numbers[3] >= -1 and numbers[4] >= 0) then
    fail('TIDEGATE_USAGE', 'numbers must be level, admitted_per_s, service_per_s, wait_max_ms')
  end
  local now = now_us()
  if epoch < read_lead(keys[1])[1] or epoch < read_published(keys[2])[1] then return 0 end

  -- Point of no return.
  redis.call('SET', keys[2], cmsgpack.pack({epoch, now + lease_us, lease_us, numbers[1], numbers[2],
    numbers[3], numbers[4], args[5]}))
  return 1
end

local function published(keys, args)
  check_call(keys, 3, args, 1)
  local now = now_us()
  local policy = read_published(keys[3])
  local left_ms = math.ceil(left_us(policy[2], policy[3], now) / 1000)
  return {redis.call('SCARD', keys[1]), is_reconciled(keys[2]) and 1 or 0, policy[1], left_ms,
    policy[8]}
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

-- Counts all holds anew.
local function recount(units_key, ahead_key)
  local sums = {}
  for place, packed in ipairs(redis.call('HGETALL', units_key)) do
    if place % 2 == 0 then add_amounts(sums, unpacked(packed, 2) or {}) end
  end
  redis.call('DEL', ahead_key)
  for key, sum in pairs(sums) do
    redis.call('HSET', ahead_key, key, string.format('%.0f', sum))
  end
end

local function reconcile_units(keys, args)
  check_call(keys, 3, args, 2)
  local scanned = redis.call('HSCAN', keys[2], args[2], 'COUNT', UNITS_STEP)
  local stale, sums = {}, {}
  for i = 1, #scanned[2], 2 do
    local member = scanned[2][i]
    if redis.call('SISMEMBER', keys[1], member) == 0 then
      stale[#stale + 1] = member
      add_amounts(sums, unpacked(scanned[2][i + 1], 2) or {})
    end
  end

  -- Point of no return.
  return_units(keys[2], keys[3], stale, sums)
  if scanned[1] == '0' and redis.call('HLEN', keys[2]) <= RECOUNT_MAX then
    recount(keys[2], keys[3])
  end
  return {scanned[1], #stale}
end

local function state(keys, args)
  check_call(keys, 2, args, 1)
  return {redis.call('SCARD', keys[1]), is_reconciled(keys[2]) and 1 or 0}
end

redis.register_function{function_name = 'tidegate_version', flags = {'no-writes', 'allow-stale'},
  callback = function() return VERSION end}
redis.register_function{function_name = 'tidegate_state', callback = state, flags = {'no-writes'}}
redis.register_function{function_name = 'tidegate_published', callback = published,
  flags = {'no-writes'}}
redis.register_function('tidegate_admit_2', admit)

local function register_allow_oom(name, callback)
  redis.register_function{function_name = name, callback = callback, flags = {'allow-oom'}}
end

register_allow_oom('tidegate_settle_2', settle)
register_allow_oom('tidegate_release_2', release)
register_allow_oom('tidegate_tell', tell)
register_allow_oom('tidegate_lead', lead)
register_allow_oom('tidegate_publish', publish)
register_allow_oom('tidegate_reconcile_begin', reconcile_begin)
register_allow_oom('tidegate_reconcile_finish', reconcile_finish)
register_allow_oom('tidegate_reconcile_units', reconcile_units)

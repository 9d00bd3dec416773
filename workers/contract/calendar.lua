#!lua name=tidegate_calendar
--[==[
The gate's calendar: windows in time for orders that load has refused, on one Valkey (7.2 or later)
or Redis (7.0 or later). What a window promises: workers/domain/appointment.py.

WHY HERE. A slot must be given once, whichever process asks, and its owner must get the same window
again: one atomic call reads a batch's owners and its gateways' cursors, and writes both. The server
does not roll a failed function back, so each function gathers, decides, and only then applies. No
policy lives here: every number comes as an argument. The clock is the server's TIME.

A CALENDAR, one for each gateway, is a cursor (the time of its next free slot, in microseconds) and a
limit (in ms): only slots before the limit are handed out. The limit is raised by blocks, each of
which was recorded in the database beforehand and is given to one caller once. So a slot before any
recorded limit may be gone, a slot after it cannot be.

SHARES are even among the gateways that have a calendar and asked lately, those of the call included:
with n of them each cursor moves by n slots of the pace. Who asks again after a rest has its share from
then on. What was given before stands, and cursors never move back: as far as they had come by then,
windows are denser than the pace.

MEMORY is lost by FLUSHALL, a restart that lacks the last second, a failover to a replica that lags.
Two things together say that the cursors are the latest: the epoch in the calendars' own hash, which
goes when they go, and `incarnations` below, which lives in this library's memory and survives no
restart, no failover and no new load of the library. While they differ nothing is booked; `begin`
forgets the cursors, and each calendar starts again with its next block. Owners' windows are kept
whatever happens to the calendars: they were given. Where one was lost as well, its ticket proves it:
it is on record again once that is shown.

KEYS. {p} is the deployment's prefix; its braces keep all keys in one slot of a cluster.
  {p}:calendars              hash; no expiry
      epoch                  the incarnation whose cursors these are
      cursor:<gateway>       microseconds of Unix time, with two decimals (a double knows quarters)
      limit:<gateway>        milliseconds of Unix time
  {p}:calendars:asked        sorted set of gateways, by when they last asked, in microseconds; expires
                             when none did lately
  {p}:appointment:<hash>     string, an owner's window (a hash of gateway, campaign and user); expires
                             with the window's grace. 13 digits of its start in ms, 5 of its width in
                             ms; once it is used, a blank and the holder. About 150 bytes with all
                             that the server keeps: 270 MB for a horizon of 30 minutes at 1,000 a
                             second, which is the most there can be.
The owners' keys travel inside the packed argument and are not declared: a batch has up to 1,000.

FUNCTIONS. The first argument of each is the version that its caller was written for.

tidegate_calendar_book_2     2 calendars asked   version packed
    packed  msgpack of an array:
            1 lead_ms        how far from now the first slot is
            2 width_ms       of new windows
            3 grace_widths   how long a window counts after its end, in widths
            4 slot_us        how far apart the slots of all gateways together are; 0: no capacity
            5 lately_ms      how long ago a gateway may have asked to have a share
            6 gateways       those of the wishes
            7 wishes         flat, for each: owner's key, gateway's place from 1, horizon_ms (how far
                             from now a new window may end), until_ms (by when it must end; 0: no
                             such time), turned_away (1: a window that has begun was tried in vain).
                             No owner twice.
    reply   msgpack array: now_ms, then flat: starts_ms, width_ms of each wish's window; 0, 0: none.
            An owner's window is told again until it is used or its grace has ended.
tidegate_calendar_use        1 calendars   version packed
    packed  msgpack array, flat, for each holder: owner's key, starts_ms, ends_ms, grace_ends_ms of
            the window, and who uses it (a text of up to 64 bytes)
    reply   msgpack array: now_ms, then for each holder 1: the window is its own, now or already; 0:
            it is not the time, another holder has used it, or the owner has been given a later one.
            Who comes early where no window is known has its own put on record, unused: so it is
            told that one again, and given no second one.
tidegate_calendar_give_back  1 calendars   version packed
    packed  as for use. A window that its holder uses is unused again. Reply: how many were.
tidegate_calendar_begin      1 calendars   version token
    A calendar without memory begins an incarnation of this name. Reply: [now_ms, hash as a flat list].
tidegate_calendar_extend     1 calendars   version packed
    packed  msgpack array, flat, for each block: gateway, begins_ms, until_ms. A block that begins at
            the limit raises it; a later one moves the cursor to its beginning, too; an earlier one
            changes nothing. Reply: 1; 0: the memory was lost since begin, nothing was done.
tidegate_calendar_version    0             Reply: the library's version.

ERRORS.  TIDEGATE_OUTDATED  the library is older than its caller, who loads its own and repeats.
         TIDEGATE_USAGE     the call is malformed. As after any other error, nothing was written.

OUT OF MEMORY. book and use may not run then; the others take next to nothing.

ONE CALL: one user, where 10 windows a second may be handed out, of 5 seconds each.
    packed = msgpack([2000, 5000, 1, 100000, 60000, ["g1"],
                      ["{p}:appointment:9f", 1, 1800000, 0, 0]])
    FCALL tidegate_calendar_book_2 2 {p}:calendars {p}:calendars:asked 3 <packed>
    -> msgpack([1767225600000, 1767225602000, 5000])
--]==]

local VERSION = 4
local WISHES_MAX = 1000        -- Bounds how long one call holds the server: about 5 ms.
local UNPACK_MAX = 1000        -- Lua's stack takes just under 8,000 values.
local WIDTH_MS_MAX = 99999     -- Five digits.
local SLOT_US_MAX = 1e12
local STARTS_MS_MAX = 9999999999999
local HOLDER_BYTES_MAX = 64

local incarnations = {}  -- of each deployment, by the key of its calendars

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

local function check(holds, expected)
  if not holds then fail('TIDEGATE_USAGE', 'expected ' .. expected) end
end

local function is_number(value, least, most)
  return type(value) == 'number' and value >= least and value <= most  -- So written, NaN fails too.
end

-- Unpacks a flat list of `size` values for each of its members.
local function unpack_list(list, size)
  check(type(list) == 'table' and #list % size == 0 and #list / size <= WISHES_MAX,
    'up to ' .. WISHES_MAX .. ' times ' .. size .. ' values')
  return list
end

local function unpacked(packed)
  local known, fields = pcall(cmsgpack.unpack, packed)
  check(known and type(fields) == 'table', 'a msgpack array')
  return fields
end

local function now_us()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local function is_known(key, epoch)
  return incarnations[key] ~= nil and epoch == incarnations[key]
end

-- Owners' windows --------------------------------------------------------------------------------

-- Reads the windows of the owners whose keys stand at every `size`-th place of the list.
local function read_windows(list, size)
  local keys, windows, count, sub = {}, {}, 0, string.sub
  for at = 1, #list, size do
    count = count + 1
    keys[count] = list[at]
    if type(list[at]) ~= 'string' then check(false, 'an owner\'s key') end
  end
  for first = 1, #keys, UNPACK_MAX do
    local last = math.min(first + UNPACK_MAX - 1, #keys)
    for i, text in ipairs(redis.call('MGET', unpack(keys, first, last))) do
      local starts = text and tonumber(sub(text, 1, 13))
      local width = text and tonumber(sub(text, 14, 18))
      if starts and width then
        windows[keys[first + i - 1]] = {
          starts = starts, width = width, holder = #text > 19 and sub(text, 20) or nil,
        }
      end
    end
  end
  return windows
end

local function written(starts, width, holder)
  local text = string.format('%013d%05d', starts, width)
  return holder and text .. ' ' .. holder or text
end

-- book -------------------------------------------------------------------------------------------

local function read_book(packed)
  local fields = unpacked(packed)
  check(is_number(fields[1], 0, STARTS_MS_MAX) and is_number(fields[2], 1, WIDTH_MS_MAX)
    and is_number(fields[3], 0, 1000), 'lead_ms, width_ms and grace_widths')
  check(is_number(fields[4], 0, SLOT_US_MAX) and is_number(fields[5], 0, STARTS_MS_MAX),
    'slot_us and lately_ms')
  local gateways = unpack_list(fields[6], 1)
  for _, gateway in ipairs(gateways) do check(type(gateway) == 'string', 'a gateway') end
  local wishes = unpack_list(fields[7], 5)
  for at = 1, #wishes, 5 do
    if not (gateways[wishes[at + 1]] and is_number(wishes[at + 2], 0, STARTS_MS_MAX)
        and is_number(wishes[at + 3], 0, STARTS_MS_MAX)) then
      check(false, 'a gateway\'s place, a horizon_ms and an until_ms')
    end
  end
  return {lead = fields[1], width = fields[2], grace = fields[3], slot = fields[4],
    lately_us = fields[5] * 1000, gateways = gateways, wishes = wishes}
end

-- Returns how many gateways share the pace: those that asked lately, and those of the batch that have
-- a calendar.
local function count_sharers(asked_key, batch, calendars, now)
  local since, till = now - batch.lately_us, now + batch.lately_us
  local count = redis.call('ZCOUNT', asked_key, since, till)
  for i, score in ipairs(redis.call('ZMSCORE', asked_key, unpack(batch.gateways))) do
    local asked = tonumber(score)
    if calendars[i].limit_us > 0 and not (asked and asked >= since and asked <= till) then
      count = count + 1
    end
  end
  return count
end

-- Returns each gateway's calendar; one that may book nothing has a limit of 0.
local function read_calendars(keys, batch, now)
  local names, calendars = {'epoch'}, {}
  for _, gateway in ipairs(batch.gateways) do
    names[#names + 1] = 'cursor:' .. gateway
    names[#names + 1] = 'limit:' .. gateway
  end
  local values = redis.call('HMGET', keys[1], unpack(names))
  local known = is_known(keys[1], values[1]) and batch.slot > 0
  for i, gateway in ipairs(batch.gateways) do
    local limit = known and tonumber(values[2 * i + 1])
    calendars[i] = {gateway = gateway, field = names[2 * i], cursor = tonumber(values[2 * i]) or 0,
      limit_us = limit and limit * 1000 or 0}
  end
  if known then
    local slot = batch.slot * count_sharers(keys[2], batch, calendars, now)
    for _, calendar in ipairs(calendars) do calendar.slot = slot end
  end
  return calendars
end

local function still_holds(window, grace_widths, now_ms, turned_away)
  return window and not window.holder
    and now_ms < window.starts + window.width * (1 + grace_widths)
    and not (turned_away and now_ms >= window.starts)
end

-- Moves the cursor on and returns the start of a new window, or nil if none may be given.
local function take_slot(calendar, earliest_us, width_ms, ends_ms_max)
  local slot = math.max(calendar.cursor, earliest_us)
  local starts = math.floor(slot / 1000)
  if slot >= calendar.limit_us or starts + width_ms > ends_ms_max then return nil end
  calendar.cursor, calendar.moved = slot + calendar.slot, true
  return starts
end

local function book(keys, args)
  check_call(keys, 2, args, 2)
  local batch, now = read_book(args[2]), now_us()
  local now_ms, wishes = math.floor(now / 1000), batch.wishes
  local windows = read_windows(wishes, 5)
  local calendars = read_calendars(keys, batch, now)

  local reply, told, given = {now_ms}, 1, {}
  for at = 1, #wishes, 5 do
    local window = windows[wishes[at]]
    if not still_holds(window, batch.grace, now_ms, wishes[at + 4] == 1) then
      local ends_max, till = now_ms + wishes[at + 2], wishes[at + 3]
      if till > 0 then ends_max = math.min(ends_max, till) end
      local starts = take_slot(calendars[wishes[at + 1]], now + batch.lead * 1000, batch.width,
        ends_max)
      window = starts and {starts = starts, width = batch.width}
      if window then given[#given + 1] = {wishes[at], window} end
    end
    reply[told + 1] = window and window.starts or 0
    reply[told + 2] = window and window.width or 0
    told = told + 2
  end

  -- Point of no return.
  for _, entry in ipairs(given) do
    local window = entry[2]
    local lasts = window.starts + window.width * (1 + batch.grace) - now_ms
    redis.call('SET', entry[1], written(window.starts, window.width), 'PX', math.max(1, lasts))
  end
  for _, calendar in ipairs(calendars) do
    if calendar.moved then
      redis.call('HSET', keys[1], calendar.field, string.format('%.2f', calendar.cursor))
    end
    if calendar.limit_us > 0 then redis.call('ZADD', keys[2], now, calendar.gateway) end
  end
  redis.call('ZREMRANGEBYSCORE', keys[2], '-inf', '(' .. now - batch.lately_us)
  redis.call('PEXPIRE', keys[2], math.ceil(batch.lately_us / 1000) + 1)
  return cmsgpack.pack(reply)
end

-- use, give_back ---------------------------------------------------------------------------------

local function read_holders(packed)
  local list, holders = unpack_list(unpacked(packed), 5), {}
  local windows = read_windows(list, 5)
  for at = 1, #list, 5 do
    local starts, ends, grace_ends, who = list[at + 1], list[at + 2], list[at + 3], list[at + 4]
    check(is_number(starts, 0, STARTS_MS_MAX) and is_number(ends, starts + 1, starts + WIDTH_MS_MAX)
      and is_number(grace_ends, ends, STARTS_MS_MAX), 'a window\'s start, end and end of grace')
    check(type(who) == 'string' and #who >= 1 and #who <= HOLDER_BYTES_MAX, 'a holder')
    holders[#holders + 1] = {key = list[at], starts = starts, width = ends - starts,
      grace_ends = grace_ends, who = who}
  end
  return holders, windows
end

-- Without a record the ticket is believed: the record was lost, or has just expired.
local function is_free(window, holder)
  if not window or window.starts < holder.starts then return true end
  return window.starts == holder.starts and (not window.holder or window.holder == holder.who)
end

local function use(keys, args)
  check_call(keys, 1, args, 2)
  local holders, windows = read_holders(args[2])
  local now_ms = math.floor(now_us() / 1000)

  local reply, told = {now_ms}, {}
  for _, holder in ipairs(holders) do
    local window, early = windows[holder.key], now_ms < holder.starts
    local takes = not early and now_ms < holder.grace_ends and is_free(window, holder)
    if takes or early and not window then
      windows[holder.key] = {starts = holder.starts, holder = takes and holder.who or nil}
      told[#told + 1] = {holder, takes and holder.who or nil}
    end
    reply[#reply + 1] = takes and 1 or 0
  end

  -- Point of no return.
  for _, entry in ipairs(told) do
    local holder = entry[1]
    redis.call('SET', holder.key, written(holder.starts, holder.width, entry[2]),
      'PX', holder.grace_ends - now_ms)
  end
  return cmsgpack.pack(reply)
end

local function give_back(keys, args)
  check_call(keys, 1, args, 2)
  local holders, windows = read_holders(args[2])

  -- Point of no return.
  local count = 0
  for _, holder in ipairs(holders) do
    local window = windows[holder.key]
    if window and window.starts == holder.starts and window.holder == holder.who then
      redis.call('SET', holder.key, written(window.starts, window.width), 'XX', 'KEEPTTL')
      window.holder = nil
      count = count + 1
    end
  end
  return count
end

-- begin, extend ----------------------------------------------------------------------------------

local function begin(keys, args)
  check_call(keys, 1, args, 2)
  check(args[2] ~= '', 'a token')
  local now_ms = math.floor(now_us() / 1000)
  if is_known(keys[1], redis.call('HGET', keys[1], 'epoch')) then
    return {now_ms, redis.call('HGETALL', keys[1])}
  end

  -- Point of no return. A fresh name each time: what was begun before a flush is not this.
  incarnations[keys[1]] = args[2]
  redis.call('DEL', keys[1])
  redis.call('HSET', keys[1], 'epoch', args[2])
  return {now_ms, {'epoch', args[2]}}
end

local function extend(keys, args)
  check_call(keys, 1, args, 2)
  local blocks, changes = unpack_list(unpacked(args[2]), 3), {}
  if not is_known(keys[1], redis.call('HGET', keys[1], 'epoch')) then return 0 end
  for at = 1, #blocks, 3 do
    local gateway, begins, till = blocks[at], blocks[at + 1], blocks[at + 2]
    check(type(gateway) == 'string' and is_number(begins, 0, STARTS_MS_MAX)
      and is_number(till, begins + 1, STARTS_MS_MAX), 'a gateway, begins_ms and a later until_ms')
    local state = redis.call('HMGET', keys[1], 'cursor:' .. gateway, 'limit:' .. gateway)
    local cursor, limit = tonumber(state[1]) or 0, tonumber(state[2])
    if not limit or begins >= limit then
      if begins ~= limit then cursor = math.max(cursor, begins * 1000) end
      changes[#changes + 1] = 'cursor:' .. gateway
      changes[#changes + 1] = string.format('%.2f', cursor)
      changes[#changes + 1] = 'limit:' .. gateway
      changes[#changes + 1] = string.format('%d', till)
    end
  end

  -- Point of no return.
  if #changes > 0 then redis.call('HSET', keys[1], unpack(changes)) end
  return 1
end

redis.register_function{function_name = 'tidegate_calendar_version',
  flags = {'no-writes', 'allow-stale'}, callback = function() return VERSION end}
redis.register_function('tidegate_calendar_book_2', book)
redis.register_function('tidegate_calendar_use', use)
redis.register_function{function_name = 'tidegate_calendar_give_back', callback = give_back,
  flags = {'allow-oom'}}
redis.register_function{function_name = 'tidegate_calendar_begin', callback = begin,
  flags = {'allow-oom'}}
redis.register_function{function_name = 'tidegate_calendar_extend', callback = extend,
  flags = {'allow-oom'}}

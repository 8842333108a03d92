-- Append one request's events to a topic's log, all or nothing, and wake who waits.
-- KEYS: partition, topics, log, figures, ids, ids-before
-- ARGV: run, publish command, live channel, wake channel, topic,
--       fence or '', retention (events), keep (ms), jump bound (ms) or '', ids window (ms), ids at most,
--       topics of the partition at most, name of the request or '', what to remember with it,
--       events that windows count, age (ms; 0: none), bytes (0: none), bytes of a full log (0: never full),
--       chunks (0: the request is all known, but has a name),
--       per chunk: count, least time or '', greatest time or '', '1' if an event has no time, events as NDJSON;
--       and, if an event has an id, for each event of the request its id or ''
-- Returns {'ok', first, last, arrival, head} | {'known', index, offset, …} | {'again', what is remembered}
--       | {'kept'} (of no chunks) | {'ahead', head} | {'crowded'} (one topic more than at most)
--       | {'full', bytes, ms until its first entry is needed no more} | {'fenced'}
local BATCH = 2000 -- unpack() is bounded by the stack
local TRIMMED, TRIMMED_WHEN_FULL = 32, 256 -- entries: a few more than came keep pace
local ENTRY = 19
local chunks = tonumber(ARGV[ENTRY])
local ids_at = ENTRY + 5 * chunks -- the index of an event, from 1, is added
local ids = #ARGV - ids_at

-- First every check, then every write: a script that fails half-way leaves what it wrote.
if ARGV[6] ~= '' and redis.call('HGET', KEYS[1], 'fence') ~= ARGV[6] then
  return {'fenced'}
end

if ARGV[13] ~= '' then
  local value = redis.call('HGET', KEYS[5], ARGV[13]) or redis.call('HGET', KEYS[6], ARGV[13])
  if value then
    return {'again', value}
  end
end

local known = {}
for start = 1, ids, BATCH do
  local names, indexes = {}, {}
  for i = start, math.min(start + BATCH - 1, ids) do
    local name = ARGV[ids_at + i]
    if name ~= '' then
      names[#names + 1], indexes[#indexes + 1] = name, i - 1
    end
  end
  if #names > 0 then
    local now_known = redis.call('HMGET', KEYS[5], unpack(names))
    local before = redis.call('HMGET', KEYS[6], unpack(names))
    for i = 1, #names do
      local offset = now_known[i] or before[i]
      if offset then
        known[#known + 1], known[#known + 2] = indexes[i], tonumber(offset)
      end
    end
  end
end
if #known > 0 then
  return {'known', unpack(known, 1, math.min(#known, BATCH))}
end

local figures = redis.call('HMGET', KEYS[4], 'created', 'last', 'first', 'arrival', 'head', 'ids_since', 'bytes', 'oldest')
local head = figures[5] and tonumber(figures[5])

-- Never before the entry ahead of it, whatever the machine's clock does.
local now = math.max(milliseconds(), tonumber(figures[4] or '0'))

-- Ids get the offsets from `first` on; the request's name gets `outcome` and what the caller wants to know again.
local function remember(first, outcome)
  if ids == 0 and ARGV[13] == '' then
    return
  end
  local since = tonumber(figures[6])
  local window = tonumber(ARGV[10])
  if since and (now - since > window or redis.call('HLEN', KEYS[5]) > tonumber(ARGV[11])) then
    redis.call('DEL', KEYS[6])
    if redis.call('EXISTS', KEYS[5]) == 1 then
      redis.call('RENAME', KEYS[5], KEYS[6])
      redis.call('PEXPIRE', KEYS[6], window)
    end
    since = nil
  end
  for start = 1, ids, BATCH do
    local pairs_ = {}
    for i = start, math.min(start + BATCH - 1, ids) do
      if ARGV[ids_at + i] ~= '' then
        pairs_[#pairs_ + 1], pairs_[#pairs_ + 2] = ARGV[ids_at + i], int(first + i - 1)
      end
    end
    if #pairs_ > 0 then
      redis.call('HSET', KEYS[5], unpack(pairs_))
    end
  end
  if ARGV[13] ~= '' then
    redis.call('HSET', KEYS[5], ARGV[13], outcome .. ' ' .. ARGV[14])
  end
  if not since then
    redis.call('HSET', KEYS[4], 'ids_since', int(now))
    redis.call('PEXPIRE', KEYS[5], 2 * window)
  end
end

if chunks == 0 then
  if figures[1] then -- else it was deleted meanwhile, and its keys with it
    remember(0, '0 0 0 0')
  end
  return {'kept'}
end

local least, greatest, untimed = nil, nil, false
for chunk = 0, chunks - 1 do
  local at = ENTRY + 1 + 5 * chunk
  local lo, hi = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  if lo and (not least or lo < least) then least = lo end
  if hi and (not greatest or hi > greatest) then greatest = hi end
  untimed = untimed or ARGV[at + 3] == '1'
end

if untimed then
  least, greatest = math.min(least or now, now), math.max(greatest or now, now)
end
local bound = tonumber(ARGV[9])
if bound and head and greatest > head + bound and least <= head + bound then
  return {'ahead', head}
end

if not figures[1] and redis.call('HLEN', KEYS[2]) >= tonumber(ARGV[12]) then
  return {'crowded'}
end

local last = tonumber(figures[2] or '0')
local held = {last = last, bytes = tonumber(figures[7] or '0'), oldest = figures[8] or peek(KEYS[3])}
local bounds = {
  events = tonumber(ARGV[7]), keep = tonumber(ARGV[8]), counted = tonumber(ARGV[15]), age = tonumber(ARGV[16]),
  bytes = tonumber(ARGV[17])
}
local full = tonumber(ARGV[18])
if full > 0 and held.bytes >= full then
  -- It may only be that trimming was behind.
  trim(KEYS[3], KEYS[4], held, bounds, now, TRIMMED_WHEN_FULL)
  if held.bytes >= full then
    local arrival = string.match(held.oldest, '%d+ %d+ (%d+)')
    return {'full', held.bytes, math.max(0, tonumber(arrival) + bounds.keep - now)}
  end
end

local epoch, sequence, born = open_partition(KEYS[1], ARGV[1])
local first = last + 1
if not figures[1] then
  born = sequence + 1
  redis.call('HSET', KEYS[2], ARGV[5], int(now))
  redis.call('HSET', KEYS[1], 'born', int(born)) -- and who reads the partition knows that it has not heard yet
  redis.call(ARGV[2], KEYS[2], ARGV[5]) -- who watches a pattern hears of the topic before it hears of its events
  redis.call('HSET', KEYS[4], 'created', int(now), 'first', int(first))
  redis.call('PERSIST', KEYS[4])
end

local header
for chunk = 0, chunks - 1 do
  local at = ENTRY + 1 + 5 * chunk
  local count = tonumber(ARGV[at])
  local lo, hi = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  if ARGV[at + 3] == '1' then
    lo, hi = math.min(lo or now, now), math.max(hi or now, now)
  end
  sequence = sequence + count
  header = string.format('%d %d %d %d %d %d', sequence, last + 1, count, lo, hi, now)
  last = last + count
  redis.call('XADD', KEYS[3], int(last) .. '-0', 'h', header, 'd', ARGV[at + 4])
  held.bytes = held.bytes + #ARGV[at + 4]
  if held.oldest == '' then
    held.oldest = describe(sequence, last, now, ARGV[at + 4])
  end
end
held.last = last
head = math.max(head or greatest, greatest)
redis.call('HSET', KEYS[1], 'sequence', int(sequence))
redis.call('HSET', KEYS[4], 'last', int(last), 'arrival', int(now), 'sequence', int(sequence), 'head', int(head),
  'bytes', int(held.bytes), 'oldest', held.oldest)

remember(first, string.format('%d %d %d %d', first, last, now, head))

trim(KEYS[3], KEYS[4], held, bounds, now, TRIMMED + chunks)
-- Said with every append and with nothing between: who hears of one has heard of all that were before it.
redis.call(ARGV[2], ARGV[3], chunks == 1 and said(epoch, born, sequence, header, ARGV[ENTRY + 5]) or int(sequence))
redis.call(ARGV[2], ARGV[4], ARGV[5])
return {'ok', first, last, now, head}

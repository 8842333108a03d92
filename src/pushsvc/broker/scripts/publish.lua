-- Append one request's events to a topic's log, all or none, and notify subscribers.
-- Named in script.py: PublishKeys, TopicArguments, RequestArguments. Then, in ARGV:
--   per chunk: count, least time or '', greatest time or '', '1' if an event has no time, events as NDJSON;
--   if an event has an id: for each event of the request its id or ''
-- Returns {'ok', first, last, arrival, head} | {'known', index, offset, …} | {'again', remembered outcome and note}
--       | {'kept'} (no chunks) | {'ahead', head} | {'crowded'} (too many topics) | {'fenced'}
--       | {'full', bytes, ms until no window needs the oldest entry}
local UNPACKED = 2000 -- unpack() is bounded by the stack
local TRIMMED, TRIMMED_WHEN_FULL = 32, 256 -- entries: a few more than are appended
local FIRST_CHUNK = NAMED_ARGUMENTS + 1
chunks = tonumber(chunks)
local before_ids = FIRST_CHUNK - 1 + 5 * chunks -- the id of event i, from 1, is ARGV[before_ids + i]
local id_count = #ARGV - before_ids

-- All checks come before the first write: a script that fails half-way leaves what it wrote.
if fence ~= '' and redis.call('HGET', partition_key, 'fence') ~= fence then
  return {'fenced'}
end

if request_key ~= '' then
  local remembered = redis.call('HGET', ids_key, request_key) or redis.call('HGET', previous_ids_key, request_key)
  if remembered then
    return {'again', remembered}
  end
end

local known = {}
for start = 1, id_count, UNPACKED do
  local ids, indexes = {}, {}
  for i = start, math.min(start + UNPACKED - 1, id_count) do
    local id = ARGV[before_ids + i]
    if id ~= '' then
      ids[#ids + 1], indexes[#indexes + 1] = id, i - 1
    end
  end
  if #ids > 0 then
    local current = redis.call('HMGET', ids_key, unpack(ids))
    local previous = redis.call('HMGET', previous_ids_key, unpack(ids))
    for i = 1, #ids do
      local offset = current[i] or previous[i]
      if offset then
        known[#known + 1], known[#known + 2] = indexes[i], tonumber(offset)
      end
    end
  end
end
if #known > 0 then
  return {'known', unpack(known, 1, math.min(#known, UNPACKED))}
end

local metadata = redis.call('HMGET', metadata_key,
  'created', 'last', 'first', 'arrival', 'head', 'ids_since', 'bytes', 'oldest')
local created, ids_since = metadata[1], tonumber(metadata[6])
local head = metadata[5] and tonumber(metadata[5])

-- The machine's clock may go back; arrivals in a log never do.
local now = math.max(milliseconds(), tonumber(metadata[4] or '0'))

-- Remember the offset of each id (the first event has offset `first`), and the request's outcome and note. This
-- function exists only if it is needed: creating it takes a microsecond.
local remember
if id_count > 0 or request_key ~= '' then
  remember = function(first, outcome)
    local window = tonumber(ids_window)
    if ids_since and (now - ids_since > window or redis.call('HLEN', ids_key) > tonumber(max_ids)) then
      redis.call('DEL', previous_ids_key)
      if redis.call('EXISTS', ids_key) == 1 then
        redis.call('RENAME', ids_key, previous_ids_key)
        redis.call('PEXPIRE', previous_ids_key, window)
      end
      ids_since = nil
    end
    for start = 1, id_count, UNPACKED do
      local fields = {}
      for i = start, math.min(start + UNPACKED - 1, id_count) do
        local id = ARGV[before_ids + i]
        if id ~= '' then
          fields[#fields + 1], fields[#fields + 2] = id, int(first + i - 1)
        end
      end
      if #fields > 0 then
        redis.call('HSET', ids_key, unpack(fields))
      end
    end
    if request_key ~= '' then
      redis.call('HSET', ids_key, request_key, outcome .. ' ' .. note)
    end
    if not ids_since then
      redis.call('HSET', metadata_key, 'ids_since', int(now))
      redis.call('PEXPIRE', ids_key, 2 * window)
    end
  end
end

if chunks == 0 then
  if created then -- else the topic was deleted meanwhile, with its keys
    remember(0, '0 0 0 0')
  end
  return {'kept'}
end

local least, greatest, untimed = nil, nil, false
for at = FIRST_CHUNK, before_ids, 5 do
  local low, high = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  if low and (not least or low < least) then least = low end
  if high and (not greatest or high > greatest) then greatest = high end
  untimed = untimed or ARGV[at + 3] == '1'
end

if untimed then
  least, greatest = math.min(least or now, now), math.max(greatest or now, now)
end
max_ahead = tonumber(max_ahead)
if max_ahead and head and greatest > head + max_ahead and least <= head + max_ahead then
  return {'ahead', head}
end

if not created and redis.call('HLEN', topics_key) >= tonumber(max_topics) then
  return {'crowded'}
end

local last = tonumber(metadata[2] or '0')
local log = {
  key = log_key, metadata_key = metadata_key, last = last, bytes = tonumber(metadata[7] or '0'),
  oldest = metadata[8] or describe_oldest(log_key)
}
local bounds = {
  events = tonumber(retention), age = tonumber(retention_age), bytes = tonumber(retention_bytes),
  window_age = tonumber(window_age), window_events = tonumber(window_events)
}
full_bytes = tonumber(full_bytes)
if full_bytes > 0 and log.bytes >= full_bytes then
  -- Trimming may only be late.
  trim(log, bounds, now, TRIMMED_WHEN_FULL)
  if log.bytes >= full_bytes then
    local arrival = string.match(log.oldest, '%d+ %d+ (%d+)')
    return {'full', log.bytes, math.max(0, tonumber(arrival) + bounds.window_age - now)}
  end
end

local epoch, sequence, newest_topic_sequence = open_partition(partition_key, run)
local first = last + 1
if not created then
  newest_topic_sequence = sequence + 1
  redis.call('HSET', topics_key, topic, int(now))
  -- Readers of the partition see by it that they do not know the topic yet.
  redis.call('HSET', partition_key, 'born', int(newest_topic_sequence))
  -- Subscribers of a pattern learn of the topic before its first event.
  redis.call(publish_command, topics_key, topic)
  redis.call('HSET', metadata_key, 'created', int(now), 'first', int(first))
  redis.call('PERSIST', metadata_key)
end

local header
for at = FIRST_CHUNK, before_ids, 5 do
  local count, events = tonumber(ARGV[at]), ARGV[at + 4]
  local low, high = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  if ARGV[at + 3] == '1' then
    low, high = math.min(low or now, now), math.max(high or now, now)
  end
  sequence = sequence + count
  header = string.format('%d %d %d %d %d %d', sequence, last + 1, count, low, high, now)
  last = last + count
  redis.call('XADD', log_key, int(last) .. '-0', 'h', header, 'd', events)
  log.bytes = log.bytes + #events
  if log.oldest == '' then
    log.oldest = describe(sequence, last, now, events)
  end
end
log.last = last
head = math.max(head or greatest, greatest)
redis.call('HSET', partition_key, 'sequence', int(sequence))
redis.call('HSET', metadata_key, 'last', int(last), 'arrival', int(now), 'sequence', int(sequence), 'head', int(head),
  'bytes', int(log.bytes), 'oldest', log.oldest)
redis.call('ZADD', changed_key, int(sequence), topic)

if remember then
  remember(first, string.format('%d %d %d %d', first, last, now, head))
end

trim(log, bounds, now, TRIMMED + chunks)
-- Every append notifies within its script, so a subscriber gets one message per append, in order.
redis.call(publish_command, log_channel, chunks == 1
  and notification(epoch, newest_topic_sequence, sequence, header, ARGV[FIRST_CHUNK + 4]) or int(sequence))
redis.call(publish_command, partition_channel, topic)
return {'ok', first, last, now, head}

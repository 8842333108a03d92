-- Append one request's events to a topic's log, all or none, and notify subscribers.
-- Named in script.py: PublishKeys, IdKeys (only if an event has an id, the request a key, or if keys follow), LatestKeys
-- (only if the topic keeps newest events) or IndexKeys (only if it has an index), TopicArguments, RequestArguments. Then,
-- in ARGV:
--   per chunk: its count, or if an event has a time: count, '1' if one has none else '0', least, greatest time; then
--   the events as NDJSON;
--   if the topic keeps newest events: what the chunks change, see latest.lua
--   if the topic has an index: what the chunks add to it, see index.lua
--   if an event has an id: for each event of the request its id or ''
-- Returns 'sequence first count least greatest arrival[ head]' of the last entry (no head: it is `greatest`)
--       | {'known', index, offset, …} | {'again', remembered outcome and note}
--       | {'kept'} (no chunks) | {'ahead', head} | {'crowded'} (too many topics) | {'fenced'}
--       | {'full', bytes, ms until no window needs the oldest entry}
-- Most calls append one short entry to a topic that exists. Every function, argument and command that such a call does
-- not need is left out: a number costs Redis 0.3 us to pass and parse, a command 1 us beside its own work.
local call = redis.call
local TRIMMED, TRIMMED_WHEN_FULL = 32, 256 -- entries: a few more than are appended
local FIRST_CHUNK = NAMED_ARGUMENTS + 1
chunks = tonumber(chunks)
local before_ids = NAMED_ARGUMENTS + 2 * chunks -- the id of event i, from 1, is ARGV[before_ids + i]
local changes -- the argument with those of the newest events
if max_latest > 0 then
  before_ids = before_ids + 1
  changes = ARGV[before_ids]
end
local terms -- the argument with those of the index
if index_key then
  before_ids = before_ids + 1
  terms = ARGV[before_ids]
end

-- All checks come before the first write: a script that fails half-way leaves what it wrote.
if fence ~= '' and call('HGET', partition_key, 'fence') ~= fence then
  return {'fenced'}
end

local remember
if ids_key and (#ARGV > before_ids or request_key ~= '') then
  include('ids')
end

local metadata = call('HMGET', metadata_key, 'last', 'arrival', 'head', 'bytes', 'oldest')
local last, created, head, bytes, oldest = metadata[1], metadata[2], metadata[3], (metadata[4] or 0) + 0, metadata[5]

local time = call('TIME')
local now = time[1] * 1000 + (time[2] - time[2] % 1000) / 1000
if created and now < created + 0 then -- `created` is true, and the last arrival
  now = created + 0 -- the machine's clock may go back; arrivals in a log never do
end

if chunks == 0 then
  if created then -- else the topic was deleted meanwhile, with its keys
    remember(now, 0, '0 0 0 0')
  end
  return {'kept'}
end

-- Per chunk: count, least and greatest time. `head` is the greatest time of all events: without one of its own, a topic
-- has had none later than its last arrival.
local entries, least, greatest, added, size = {}, nil, nil, 0, 0
for chunk = 1, chunks do
  local shape, at = ARGV[NAMED_ARGUMENTS + 2 * chunk - 1], 3 * chunk
  local count, low, high = tonumber(shape), now, now
  if not count then
    local untimed
    count, untimed, low, high = string.match(shape, '(%d+) ([01]) (%-?%d+) (%-?%d+)')
    count, low, high = tonumber(count), tonumber(low), tonumber(high)
    if untimed == '1' then
      low, high = math.min(low, now), math.max(high, now)
    end
  end
  entries[at - 2], entries[at - 1], entries[at] = count, low, high
  if not least or low < least then least = low end
  if not greatest or high > greatest then greatest = high end
  added, size = added + count, size + #ARGV[NAMED_ARGUMENTS + 2 * chunk]
end
local stored_head = head
head = tonumber(head or created)
if max_ahead >= 0 and head and greatest > head + max_ahead and least <= head + max_ahead then
  return {'ahead', head}
end

local deleted
if not created then
  if call('HLEN', topics_key) >= max_topics then
    return {'crowded'}
  end
  local remains = not last and call('HGET', remains_key, topic)
  if remains then
    deleted, last = string.match(remains, '(%d+) %d+ (%d+)')
  end
end
last = tonumber(last or 0)

local trim, describe_oldest, log, bounds
if retention_age > 0 or last + added >= retention or retention_bytes > 0 and bytes + size > retention_bytes
  or created and not oldest then
  include('trim')
  log = {
    key = log_key, metadata_key = metadata_key, last = last, bytes = bytes, oldest = oldest or describe_oldest(log_key)
  }
  bounds = {
    events = retention, age = retention_age, bytes = retention_bytes,
    window_age = window_age, window_events = window_events
  }
  if full_bytes > 0 and bytes >= full_bytes then
    -- Trimming may only be late.
    trim(log, bounds, now, TRIMMED_WHEN_FULL)
    if log.bytes >= full_bytes then
      local arrival = string.match(log.oldest, '%d+ %d+ (%d+)')
      return {'full', log.bytes, math.max(0, tonumber(arrival) + window_age - now)}
    end
  end
  bytes, oldest = log.bytes, log.oldest
end

local partition = call('HMGET', partition_key, 'run', 'epoch', 'born')
local epoch, newest_topic_sequence = partition[2], partition[3] or '0'
if partition[1] ~= run then
  include('new_epoch')
end
local sequence, first = call('HINCRBY', partition_key, 'sequence', added) - added, last + 1
if not created then
  newest_topic_sequence = string.format('%d', sequence + 1)
  call('HSET', topics_key, topic, now)
  -- Readers of the partition see by it that they do not know the topic yet.
  call('HSET', partition_key, 'born', newest_topic_sequence)
  -- Subscribers of a pattern learn of the topic before its first event.
  call(publish_command, topics_key, topic)
  call('HSET', metadata_key, 'created', now, 'first', first)
  if deleted then
    call('HSET', metadata_key, 'trimmed', deleted, 'deleted', deleted)
  end
  call('PERSIST', metadata_key) -- an earlier version let the metadata of deleted topics expire
end

local header, data
local is_empty = not oldest or oldest == ''
for chunk = 1, chunks do
  local count, low, high = entries[3 * chunk - 2], entries[3 * chunk - 1], entries[3 * chunk]
  data = ARGV[NAMED_ARGUMENTS + 2 * chunk]
  sequence = sequence + count
  header = string.format('%d %d %d %d %d %d', sequence, last + 1, count, low, high, now)
  last = last + count
  call('XADD', log_key, string.format('%d-0', last), 'h', header, 'd', data)
  if is_empty then
    oldest, is_empty = string.format('%d %d %d %d', sequence, last, now, #data), false
    call('HSET', metadata_key, 'oldest', oldest)
  end
end
bytes = bytes + size
if not head or head < greatest then
  head = greatest
end
if stored_head or head ~= now then
  call('HSET', metadata_key, 'last', last, 'arrival', now, 'bytes', bytes, 'head', head)
else
  call('HSET', metadata_key, 'last', last, 'arrival', now, 'bytes', bytes)
end
call('ZADD', changed_key, sequence, topic)

if changes then
  include('latest')
end
if terms then
  include('index')
end

if remember then
  remember(now, first, string.format('%d %d %d %d', first, last, now, head))
end

if trim then
  log.last, log.bytes, log.oldest = last, bytes, oldest
  trim(log, bounds, now, TRIMMED + chunks)
  if terms then
    local first_kept, max_members, more_members = tonumber(call('HGET', metadata_key, 'first')), 64 + 16 * added, nil
    include('index_trim')
  end
end
-- Every append notifies within its script, so a subscriber gets one message per append, in order.
local message
if chunks == 1 then
  include('notification')
else
  message = sequence
end
call(publish_command, log_channel, message)
if partition_channel ~= '' then
  call(publish_command, partition_channel, topic)
end
return head == entries[3 * chunks] and header or string.format('%s %d', header, head)

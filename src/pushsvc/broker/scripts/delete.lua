-- End a topic: delete its events, ids, newest events, index, corrections and statistics. Its offsets go on, so that none ever names two events.
-- Named in script.py: DeleteKeys (then, per statistics log: log, metadata), DeleteArguments (then the logs' channels).
-- `windows` are the topic's windows as the caller knows them. With `idle` (ms) the topic ends only if `fence` is the
-- newest and it had no event and no stream for that long. At most `max_remains` ended topics are remembered.
-- Returns 1 | 0: there is no such topic, or it is not idle | -1: the topic has other windows than the caller knows
local metadata = redis.call('HMGET', metadata_key, 'windows', 'last', 'arrival', 'watched')
local now = milliseconds()
if (metadata[1] or '') ~= windows then
  return -1
end
if idle ~= '' then
  if redis.call('HGET', partition_key, 'fence') ~= fence then
    return 0
  end
  local used = math.max(tonumber(metadata[3] or now), tonumber(metadata[4] or 0))
  if now - used < tonumber(idle) or has_streams(numsub, NAMED_ARGUMENTS + 1) then
    return 0
  end
end
if redis.call('HDEL', topics_key, topic) == 0 then
  return 0
end
local _, sequence = open_partition(partition_key, run)
sequence = sequence + 1
redis.call('HSET', partition_key, 'sequence', sequence)

local before = redis.call('HGET', remains_key, topic)
local frames = before and tonumber(string.match(before, '%d+ %d+ %d+ (%d+)')) or 0
if before then
  forget(remains_key, changed_key, topic, before)
end
for i = NAMED_KEYS + 1, #KEYS, 2 do
  frames = math.max(frames, tonumber(redis.call('HGET', KEYS[i + 1], 'last') or 0))
  redis.call('DEL', KEYS[i], KEYS[i + 1])
end
redis.call('DEL', ids_key, previous_ids_key, log_key, metadata_key, latest_key, latest_order_key, index_key, corrections_key)
redis.call('HSET', remains_key, topic,
  string.format('%d %d %d %d', sequence, now, metadata[2] or 0, frames) .. (windows == '' and '' or ' ' .. windows))
redis.call('ZADD', changed_key, sequence, topic)
for window in string.gmatch(windows, '%S+') do
  redis.call('ZADD', changed_key, sequence, topic .. '.$stats.' .. window)
end
make_room(partition_key, remains_key, changed_key, tonumber(max_remains))

for i = NAMED_ARGUMENTS + 1, #ARGV do
  redis.call(publish_command, ARGV[i], sequence)
end
redis.call(publish_command, partition_channel, '$ended.' .. topic)
return 1

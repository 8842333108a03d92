-- Append one frame to the statistics log of a topic's window, and notify subscribers.
-- KEYS: partition, changed, remains, log, metadata of the log, metadata of the topic.
-- Arguments: StatisticsArguments (script.py); `log` is the name of the log,
-- `source` is the offset of the events log up to which the frame is exact, `late` the late events of the topic
-- in all, 0 if there are none to report.
-- Returns {'ok', sequence, receivers} | {'fenced'} | {'deleted'}
local partition_key, changed_key, remains_key, log_key, metadata_key, topic_key = unpack(KEYS)
if redis.call('HGET', partition_key, 'fence') ~= fence then
  return {'fenced'}
end
if redis.call('HEXISTS', topic_key, 'created') == 0 then
  return {'deleted'}
end
local epoch, sequence, newest_topic_sequence = open_partition(partition_key, run)
local metadata = redis.call('HMGET', metadata_key, 'last', 'sequence', 'snapshot', 'before_snapshot')
if not metadata[1] then
  -- Its numbers go on after those of a deleted topic of this name.
  local remains = redis.call('HGET', remains_key, topic)
  if remains then
    metadata[2], metadata[1] = string.match(remains, '(%d+) %d+ %d+ (%d+)')
    redis.call('HSET', metadata_key, 'trimmed', metadata[2], 'deleted', metadata[2])
  end
end
local last = tonumber(metadata[1] or '0') + 1
sequence = sequence + 1
local header = table.concat({int(sequence), kind, source, int(milliseconds()), int(last)}, ' ')
redis.call('XADD', log_key, int(last) .. '-0', 'h', header, 'd', frame)
redis.call('HSET', partition_key, 'sequence', int(sequence))
redis.call('HSET', metadata_key, 'last', int(last), 'sequence', int(sequence), 'source', source)
redis.call('ZADD', changed_key, int(sequence), log)
if kind ~= 'u' then
  -- A log needs only its last snapshot and the updates after it. Two snapshots are kept, for readers under way.
  if metadata[3] then
    redis.call('XTRIM', log_key, 'MINID', '=', metadata[3] .. '-0')
    redis.call('HSET', metadata_key, 'trimmed', metadata[4], 'first', metadata[3])
  end
  redis.call('PERSIST', metadata_key)
  redis.call('HSET', metadata_key, 'snapshot', int(last), 'before_snapshot', metadata[2] or '0')
  local windows = redis.call('HGET', topic_key, 'windows') or ''
  if not string.find(' ' .. windows .. ' ', ' ' .. window .. ' ', 1, true) then
    redis.call('HSET', topic_key, 'windows', windows == '' and window or windows .. ' ' .. window)
  end
end
if tonumber(late) > 0 then
  redis.call('HSET', topic_key, 'late', late) -- a frame whose answer was lost may be repeated
end
local message = notification(epoch, newest_topic_sequence, sequence, header, frame)
return {'ok', int(sequence), redis.call(publish_command, log_channel, message)}

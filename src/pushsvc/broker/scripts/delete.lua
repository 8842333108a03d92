-- Delete a topic: its events, ids and statistics. Its offsets go on, so that none ever names two events.
-- Named in script.py: DeleteKeys (then, per statistics log: log, metadata), DeleteArguments (then the logs' channels).
-- `windows` are the topic's windows as the caller knows them, `remembered_for` (ms) applies to the deletion.
-- Returns 1 | 0: there is no such topic | -1: the topic has other windows than the caller knows
local LOGS = 6 -- among the keys, those of the topic's logs begin here
if (redis.call('HGET', metadata_key, 'windows') or '') ~= windows then
  return -1
end
if redis.call('HDEL', topics_key, topic) == 0 then
  return 0
end
local _, sequence = open_partition(partition_key, run)
sequence = int(sequence + 1)
redis.call('HSET', partition_key, 'sequence', sequence)
redis.call('DEL', ids_key, previous_ids_key)
for i = LOGS, #KEYS, 2 do
  local log, metadata = KEYS[i], KEYS[i + 1]
  local last = redis.call('HGET', metadata, 'last') or '0'
  redis.call('DEL', log, metadata)
  redis.call('HSET', metadata, 'last', last, 'first', int(tonumber(last) + 1), 'trimmed', sequence,
    'deleted', sequence, 'sequence', sequence)
  redis.call('PEXPIRE', metadata, remembered_for)
end
redis.call('ZADD', changed_key, sequence, topic)
for window in string.gmatch(windows, '%S+') do
  redis.call('ZADD', changed_key, sequence, topic .. '.$stats.' .. window)
end
for i = NAMED_ARGUMENTS + 1, #ARGV do
  redis.call(publish_command, ARGV[i], sequence)
end
redis.call(publish_command, partition_channel, topic)
return 1

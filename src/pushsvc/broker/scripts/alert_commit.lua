-- Store what changed of the alerts of a partition: states, and the events that tell of it, which are to be sent.
-- KEYS: partition, states, outbox. Arguments: AlertCommitArguments (script.py), then `states` pairs of a field and its
-- value ('': remove it), then pairs of an event's id and the event.
-- Returns {'ok'} | {'fenced'}
local partition_key, states_key, outbox_key = unpack(KEYS)
if not owns(partition_key, run, fence, epoch) then
  return {'fenced'}
end
local events = NAMED_ARGUMENTS + 2 * tonumber(states)
for i = NAMED_ARGUMENTS + 1, events, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', states_key, ARGV[i])
  else
    redis.call('HSET', states_key, ARGV[i], ARGV[i + 1])
  end
end
for i = events + 1, #ARGV, 2 do
  redis.call('HSET', outbox_key, ARGV[i], ARGV[i + 1])
end
return {'ok'}

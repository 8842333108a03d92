-- Forget a topic: its events, ids and statistics. Offsets go on from where they were, so that none names two events.
-- KEYS: partition, topics, ids, ids-before, then per log (events first): log, figures
-- ARGV: run, publish command, topic, wake channel, milliseconds to remember the deletion, its windows as the caller knows
-- them, then per log: live channel
-- Returns 1, 0 where there is no such topic, or -1 where it has got a window since that the keys lack.
if (redis.call('HGET', KEYS[6], 'windows') or '') ~= ARGV[6] then
  return -1
end
if redis.call('HDEL', KEYS[2], ARGV[3]) == 0 then
  return 0
end
local _, sequence = open_partition(KEYS[1], ARGV[1])
sequence = int(sequence + 1)
redis.call('HSET', KEYS[1], 'sequence', sequence)
redis.call('DEL', KEYS[3], KEYS[4])
for i = 5, #KEYS, 2 do
  local last = redis.call('HGET', KEYS[i + 1], 'last') or '0'
  redis.call('DEL', KEYS[i], KEYS[i + 1])
  redis.call('HSET', KEYS[i + 1], 'last', last, 'first', int(tonumber(last) + 1), 'trimmed', sequence,
    'deleted', sequence, 'sequence', sequence)
  redis.call('PEXPIRE', KEYS[i + 1], ARGV[5])
end
for i = 7, #ARGV do
  redis.call(ARGV[2], ARGV[i], sequence)
end
redis.call(ARGV[2], ARGV[4], ARGV[3])
return 1

-- Report late events of a topic for which no frame is written.
-- KEYS: partition, metadata of the topic. ARGV: fence, late events of the topic in all, the offset up to which they are
-- counted. A report whose answer was lost may be repeated.
-- Returns 'ok' | 'fenced' | 'deleted'
if redis.call('HGET', KEYS[1], 'fence') ~= ARGV[1] then
  return 'fenced'
end
if redis.call('HEXISTS', KEYS[2], 'created') == 0 then
  return 'deleted'
end
redis.call('HSET', KEYS[2], 'late', ARGV[2], 'late_through', ARGV[3])
return 'ok'

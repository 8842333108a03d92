-- Count a refused request of a topic, if the topic exists: the deletion of a topic must leave no metadata.
-- KEYS: metadata. ARGV: why the request was refused
if redis.call('HEXISTS', KEYS[1], 'created') == 1 then
  redis.call('HINCRBY', KEYS[1], 'refused', 1)
  redis.call('HSET', KEYS[1], 'last_refusal', ARGV[1])
end
return 0

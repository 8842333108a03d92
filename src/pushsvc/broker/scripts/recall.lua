-- Return what is remembered with the name of a request. KEYS: partition, ids, ids-before. ARGV: name. Writes nothing.
return redis.call('HGET', KEYS[2], ARGV[1]) or redis.call('HGET', KEYS[3], ARGV[1])

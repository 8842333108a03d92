-- Return what is remembered of a request. KEYS: partition, ids, previous ids. ARGV: the request's key. Writes nothing.
local _, ids_key, previous_ids_key = unpack(KEYS)
return redis.call('HGET', ids_key, ARGV[1]) or redis.call('HGET', previous_ids_key, ARGV[1])

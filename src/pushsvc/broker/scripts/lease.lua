-- Take or keep the lease of a partition. KEYS: partition, lease. ARGV: run, owner, milliseconds.
-- Returns {1, fence} | {0}. A new owner gets a greater fence, and every older owner's writes are refused from then on.
local owner = redis.call('GET', KEYS[2])
if owner and owner ~= ARGV[2] then
  return {0}
end
open_partition(KEYS[1], ARGV[1])
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
if owner then
  return {1, tonumber(redis.call('HGET', KEYS[1], 'fence'))}
end
return {1, redis.call('HINCRBY', KEYS[1], 'fence', 1)}

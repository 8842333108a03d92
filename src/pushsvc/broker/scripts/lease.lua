-- Take or keep the lease of a partition. KEYS: partition, lease. ARGV: run, owner, milliseconds.
-- Returns {1, fence} | {0}. A new owner gets a greater fence, and every older owner's writes are refused from then on.
-- One whose lease ran out while nobody else took it (a stalled machine) goes on with the fence that it had.
local owner = redis.call('GET', KEYS[2])
if owner and owner ~= ARGV[2] then
  return {0}
end
open_partition(KEYS[1], ARGV[1])
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
local last = redis.call('HMGET', KEYS[1], 'owner', 'fence')
if last[1] == ARGV[2] then
  return {1, tonumber(last[2])}
end
redis.call('HSET', KEYS[1], 'owner', ARGV[2])
return {1, redis.call('HINCRBY', KEYS[1], 'fence', 1)}

-- Take or keep the lease of a partition. KEYS: partition, lease. ARGV: run, owner, milliseconds.
-- Returns {1, fence} | {0}. A new owner gets a greater fencing token: writes of every older owner are refused.
-- An owner whose lease expired (a stalled machine) keeps its token if no other owner took the lease meanwhile.
local partition_key, lease_key = unpack(KEYS)
local run, owner, duration = unpack(ARGV)
local holder = redis.call('GET', lease_key)
if holder and holder ~= owner then
  return {0}
end
open_partition(partition_key, run)
redis.call('SET', lease_key, owner, 'PX', duration)
local last = redis.call('HMGET', partition_key, 'owner', 'fence')
if last[1] == owner then
  return {1, tonumber(last[2])}
end
redis.call('HSET', partition_key, 'owner', owner)
return {1, redis.call('HINCRBY', partition_key, 'fence', 1)}

-- Discard checkpoints. KEYS: partition, checkpoints, then per engine: its pieces, in both places
-- ARGV: run, fence, epoch, engines
-- Returns {'ok'} | {'fenced'} (another owner or another epoch)
local partition_key, checkpoints_key = unpack(KEYS, 1, 2)
local run, fence, epoch = unpack(ARGV, 1, 3)
if not owns(partition_key, run, fence, epoch) then
  return {'fenced'}
end
for i = 4, #ARGV do
  redis.call('HDEL', checkpoints_key, ARGV[i])
end
for i = 3, #KEYS do
  redis.call('UNLINK', KEYS[i])
end
return {'ok'}

-- Forget checkpoints. KEYS: partition, checkpoints, then per engine: its pieces, in both places
-- ARGV: run, fence, epoch, engines
-- Returns {'ok'} | {'fenced'} (another owner, or another life of Redis)
if not owns(KEYS[1], ARGV[1], ARGV[2], ARGV[3]) then
  return {'fenced'}
end
for i = 4, #ARGV do
  redis.call('HDEL', KEYS[2], ARGV[i])
end
for i = 3, #KEYS do
  redis.call('UNLINK', KEYS[i])
end
return {'ok'}

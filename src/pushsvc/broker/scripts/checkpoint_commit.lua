-- Make pieces the checkpoint of an engine, in place of the one before.
-- KEYS: partition, checkpoints, pieces, pieces of the one before
-- ARGV: run, fence, epoch, engine, number of pieces, header
-- Returns {'ok'} | {'fenced'} (another owner, another life of Redis, or other pieces)
if not owns(KEYS[1], ARGV[1], ARGV[2], ARGV[3]) or redis.call('LLEN', KEYS[3]) ~= tonumber(ARGV[5]) then
  return {'fenced'}
end
redis.call('HSET', KEYS[2], ARGV[4], ARGV[6])
redis.call('PERSIST', KEYS[3])
redis.call('UNLINK', KEYS[4])
return {'ok'}

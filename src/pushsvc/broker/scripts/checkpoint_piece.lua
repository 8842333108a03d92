-- Put a piece of a checkpoint behind those before it. The first one begins anew.
-- KEYS: partition, pieces
-- ARGV: run, fence, epoch, number of pieces before it, milliseconds after which pieces that come to nothing go, piece
-- Returns {'ok'} | {'fenced'} (another owner, another life of Redis, or other pieces)
if not owns(KEYS[1], ARGV[1], ARGV[2], ARGV[3]) then
  return {'fenced'}
end
if ARGV[4] == '0' then
  redis.call('UNLINK', KEYS[2])
elseif redis.call('LLEN', KEYS[2]) ~= tonumber(ARGV[4]) then
  return {'fenced'}
end
redis.call('RPUSH', KEYS[2], ARGV[6])
redis.call('PEXPIRE', KEYS[2], ARGV[5])
return {'ok'}

-- Append a piece of a checkpoint to the pieces before it. The first piece starts over.
-- KEYS: partition, pieces. Arguments: CheckpointPieceArguments (script.py); `number` pieces were written before, and
-- after `expires` ms an uncommitted checkpoint is removed.
-- Returns {'ok'} | {'fenced'} (another owner, another epoch, or other pieces)
local partition_key, pieces_key = unpack(KEYS)
if not owns(partition_key, run, fence, epoch) then
  return {'fenced'}
end
if number == '0' then
  redis.call('UNLINK', pieces_key)
elseif redis.call('LLEN', pieces_key) ~= tonumber(number) then
  return {'fenced'}
end
redis.call('RPUSH', pieces_key, piece)
redis.call('PEXPIRE', pieces_key, expires)
return {'ok'}

-- Make written pieces the checkpoint of an engine, in place of the previous one.
-- KEYS: partition, checkpoints, pieces, pieces of the previous one. Arguments: CheckpointCommitArguments (script.py).
-- Returns {'ok'} | {'fenced'} (another owner, another epoch, or other pieces)
local partition_key, checkpoints_key, pieces_key, previous_pieces_key = unpack(KEYS)
if not owns(partition_key, run, fence, epoch) or redis.call('LLEN', pieces_key) ~= tonumber(pieces) then
  return {'fenced'}
end
redis.call('HSET', checkpoints_key, engine, header)
redis.call('PERSIST', pieces_key)
redis.call('UNLINK', previous_pieces_key)
return {'ok'}

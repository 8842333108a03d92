-- Start a new epoch: a primary with another run id may lack entries that processes have seen. Uses `partition_key` and
-- `run`, replaces `epoch`.
do
  local time = redis.call('TIME')
  -- A server may become the primary again with the run id that it had: the time makes its epochs differ.
  local found = (tonumber(string.sub(run, 1, 8), 16) + time[1] * 1000 + math.floor(time[2] / 1000)) % 4294967296
  if found == tonumber(epoch or '-1') then
    found = (found + 1) % 4294967296
  end
  epoch = string.format('%d', found)
  redis.call('HSET', partition_key, 'run', run, 'epoch', epoch)
end

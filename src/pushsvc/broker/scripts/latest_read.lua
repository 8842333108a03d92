-- Read the newest events of a topic at one instant: those after an offset in the order of their offsets, as far as a
-- budget of bytes reaches, or those of some keys. Writes nothing.
-- KEYS: partition, metadata, latest, latest order
-- ARGV: run, offset to read after, byte budget, '1' to list all keys too, then the keys to look up (none: read by offset)
-- Returns {1 if the partition's epoch belongs to this run, epoch, sequence, last offset of the log, 1 if all of it is
-- folded in, evicted keys, number of keys, more, {key, value, …}, {keys},
-- offset of the last correction}
local partition_key, metadata_key, latest_key, latest_order_key = unpack(KEYS)
local after, budget = ARGV[2], tonumber(ARGV[3])
local state = redis.call('HMGET', partition_key, 'run', 'epoch', 'sequence')
local metadata = redis.call('HMGET', metadata_key, 'created', 'last', 'latest', 'evicted', 'corrected')
local answer = {
  state[1] == ARGV[1] and 1 or 0, tonumber(state[2] or '0'), tonumber(state[3] or '0'), tonumber(metadata[2] or '0'),
  (not metadata[1] or metadata[2] == metadata[3]) and 1 or 0, tonumber(metadata[4] or '0'), 0, 0, {}, {}, tonumber(metadata[5] or '0')
}
if not metadata[1] then
  return answer
end
answer[7] = redis.call('ZCARD', latest_order_key)
local found = {}
if #ARGV > 4 then
  local values = redis.call('HMGET', latest_key, unpack(ARGV, 5))
  for i = 1, #values do
    if values[i] then
      found[#found + 1], found[#found + 2] = ARGV[4 + i], values[i]
    end
  end
else
  local more = true
  while more and budget > 0 do
    local keys = redis.call('ZRANGEBYSCORE', latest_order_key, '(' .. after, '+inf', 'WITHSCORES', 'LIMIT', 0, 16)
    more = #keys > 0
    for i = 1, #keys, 2 do
      if budget <= 0 then
        break
      end
      local value = redis.call('HGET', latest_key, keys[i])
      after = keys[i + 1]
      if value then
        found[#found + 1], found[#found + 2] = keys[i], value
        budget = budget - #value - #keys[i]
      end
    end
  end
  answer[8] = more and 1 or 0
end
answer[9] = found
if ARGV[4] == '1' then
  answer[10] = redis.call('ZRANGE', latest_order_key, 0, -1)
end
return answer

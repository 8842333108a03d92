-- Find the last entry of a topic's log whose sequence or arrival is not above a value.
-- KEYS: log, metadata, remains. ARGV: 'sequence' or 'arrival', value, topic. Returns the offset to read after. Writes nothing.
-- Both grow along the log, and offsets are entry ids, so a binary search over offsets finds it.
local log_key, metadata_key, remains_key = unpack(KEYS)
local metadata = redis.call('HMGET', metadata_key, 'first', 'last')
if not metadata[2] then
  local remains = redis.call('HGET', remains_key, ARGV[3])
  return remains and tonumber(string.match(remains, '%d+ %d+ (%d+)')) or 0
end
local low, high = tonumber(metadata[1] or '1'), tonumber(metadata[2] or '0')
local value = tonumber(ARGV[2])
while low <= high do
  local middle = math.floor((low + high) / 2)
  local entry = redis.call('XRANGE', log_key, string.format('%.0f-0', middle), '+', 'COUNT', 1)[1]
  if not entry then
    break
  end
  local sequence, first, count, arrival = string.match(entry[2][2], '(%d+) (%d+) (%d+) %-?%d+ %-?%d+ (%d+)')
  local found = tonumber(ARGV[1] == 'sequence' and sequence or arrival)
  if found > value then
    high = tonumber(first) - 1
  else
    low = tonumber(first) + tonumber(count)
  end
end
return low - 1

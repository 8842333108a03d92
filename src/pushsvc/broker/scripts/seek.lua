-- Find where in a topic's log to begin: behind the last entry whose sequence or arrival is not above a value.
-- KEYS: log, figures. ARGV: 'sequence' or 'arrival', value. Returns the offset to read after. Writes nothing.
-- Both grow along the log, and offsets are ids, so halving the offsets finds it.
local figures = redis.call('HMGET', KEYS[2], 'first', 'last')
local low, high = tonumber(figures[1] or '1'), tonumber(figures[2] or '0')
local value = tonumber(ARGV[2])
while low <= high do
  local middle = math.floor((low + high) / 2)
  local entry = redis.call('XRANGE', KEYS[1], string.format('%.0f-0', middle), '+', 'COUNT', 1)[1]
  if not entry then
    break
  end
  local sequence, from, count, _, _, arrival =
    string.match(entry[2][2], '(%d+) (%d+) (%d+) (%-?%d+) (%-?%d+) (%d+)')
  local found = tonumber(ARGV[1] == 'sequence' and sequence or arrival)
  if found > value then
    high = tonumber(from) - 1
  else
    low = tonumber(from) + tonumber(count)
  end
end
return low - 1

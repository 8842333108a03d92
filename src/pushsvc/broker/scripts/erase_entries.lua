-- Copy entries from the id `at` on, until `budget` is used up; both are changed. The data that change follow in ARGV.
local changed = {}
for i = 4, #ARGV, 2 do
  changed[ARGV[i]] = ARGV[i + 1]
end
while budget > 0 do
  local found = redis.call('XRANGE', log_key, '(' .. at, '+', 'COUNT', 16)
  if #found == 0 then
    break
  end
  for _, entry in ipairs(found) do
    local data = changed[entry[1]] or entry[2][4]
    redis.call('XADD', new_key, entry[1], 'h', entry[2][2], 'd', data)
    at, budget = entry[1], budget - #data - 100
  end
end

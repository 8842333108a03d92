-- Read a topic's entries backwards, at one instant. Writes nothing.
-- KEYS: partition, log, and to get corrected events in their current forms the corrections. ARGV: run, byte budget, and the offset of an entry's last event, or '+' for the end of the log;
-- with '>' before it, start with the entry after that offset.
-- Returns {1 if the partition's epoch belongs to this run, epoch, 1 if there are older entries, {header, data, …}}, the
-- newest entry first
local partition_key, log_key, corrections_key = unpack(KEYS)
local run, budget, start = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local state = redis.call('HMGET', partition_key, 'run', 'epoch')
local after = string.match(start, '^>(%d+)$')
if after then
  local following = redis.call('XRANGE', log_key, '(' .. after .. '-0', '+', 'COUNT', 1)[1]
  start = following and following[1] or '+'
elseif start ~= '+' then
  start = start .. '-0'
end
local entries, older = {}, 0
while budget > 0 do
  local found = redis.call('XREVRANGE', log_key, start, '-', 'COUNT', 16)
  older = 0
  for number, entry in ipairs(found) do
    if budget <= 0 then
      older = 1
      break
    end
    local header, data, id = entry[2][2], entry[2][4], string.match(entry[1], '%d+')
    include('current')
    entries[#entries + 1], entries[#entries + 2] = header, data
    budget = budget - #data - 100
    start = '(' .. entry[1]
  end
  if #found < 16 then
    break
  end
  older = 1
end
return {state[1] == run and 1 or 0, tonumber(state[2] or '0'), older, entries}

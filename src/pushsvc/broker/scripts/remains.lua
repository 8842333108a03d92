-- Functions of scripts that end topics. What is kept of an ended topic is a field of the hash of remains: sequence and
-- time (ms) of its end, its last offset, the last number of its frames, and its windows, separated by spaces.

-- Forget an ended topic: its remains, and the last changes of its logs, unless the topic came back and changed them.
local function forget(remains_key, changed_key, topic, remains)
  local ended, windows = string.match(remains, '(%d+) %d+ %d+ %d+(.*)')
  redis.call('HDEL', remains_key, topic)
  local logs = {topic}
  for window in string.gmatch(windows, '%S+') do
    logs[#logs + 1] = topic .. '.$stats.' .. window
  end
  for _, log in ipairs(logs) do
    if tonumber(redis.call('ZSCORE', changed_key, log) or 0) == tonumber(ended) then
      redis.call('ZREM', changed_key, log)
    end
  end
end

-- Forget one ended topic if there are more than `most`: the oldest of some that are chosen at random, which is cheaper
-- than an order of all. `forgotten` of the partition counts them.
local function make_room(partition_key, remains_key, changed_key, most)
  if redis.call('HLEN', remains_key) <= most then
    return false
  end
  local chosen = redis.call('HRANDFIELD', remains_key, 10, 'WITHVALUES')
  local oldest, least = nil, nil
  for i = 1, #chosen, 2 do
    local ended = tonumber(string.match(chosen[i + 1], '%d+'))
    if not least or ended < least then
      oldest, least = i, ended
    end
  end
  forget(remains_key, changed_key, chosen[oldest], chosen[oldest + 1])
  redis.call('HINCRBY', partition_key, 'forgotten', 1)
  return true
end

-- Put before every script that writes.

local function milliseconds()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- A primary with another run id begins a new epoch: what processes remember may be ahead of what it kept.
local function open_partition(key, run)
  local state = redis.call('HMGET', key, 'run', 'epoch', 'sequence')
  local sequence = tonumber(state[3] or '0')
  if state[1] == run then
    return tonumber(state[2]), sequence
  end
  -- The time tells two reigns of one server apart: the second may come within the second.
  local epoch = (tonumber(string.sub(run, 1, 8), 16) + milliseconds()) % 4294967296
  if epoch == tonumber(state[2] or '-1') then
    epoch = (epoch + 1) % 4294967296
  end
  redis.call('HSET', key, 'run', run, 'epoch', epoch)
  return epoch, sequence
end

-- Integers as text: Lua's own form of 1e15 is not one that anybody reads back. (%d is exact, and four times %.0f.)
local function int(number)
  return string.format('%d', number)
end

-- Tell whether an owner may still write what it knows: it has the newest fence, and knows of no later life of Redis
-- than this one.
local function owns(key, run, fence, epoch)
  return redis.call('HGET', key, 'fence') == fence and open_partition(key, run) == tonumber(epoch)
end

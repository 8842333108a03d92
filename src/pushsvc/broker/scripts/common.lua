-- Functions of scripts that write. Not of publish.lua: to create a function takes time in each call.

local function milliseconds()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Return the epoch of a partition, its sequence, and the sequence of the first event of its newest topic.
-- A primary with another run id starts a new epoch.
local function open_partition(partition_key, run)
  local state = redis.call('HMGET', partition_key, 'run', 'epoch', 'sequence', 'born')
  local epoch = state[2]
  if state[1] ~= run then
    include('new_epoch')
  end
  return tonumber(epoch), tonumber(state[3] or '0'), tonumber(state[4] or '0')
end

-- Format an integer. Lua would write 1e15. (%d is exact, and four times as fast as %.0f.)
local function int(number)
  return string.format('%d', number)
end

local function notification(epoch, newest_topic_sequence, sequence, header, data)
  local message
  epoch, newest_topic_sequence = int(epoch), int(newest_topic_sequence)
  include('notification')
  return message
end

-- Return whether an owner may write: its fencing token is the newest, and the epoch it knows is the current one.
local function owns(partition_key, run, fence, epoch)
  return redis.call('HGET', partition_key, 'fence') == fence and open_partition(partition_key, run) == tonumber(epoch)
end

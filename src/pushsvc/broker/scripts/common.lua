-- Functions of every script that writes.

local function milliseconds()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- Return the epoch of a partition, its sequence, and the sequence of the first event of its newest topic.
-- A primary with another run id starts a new epoch: processes may remember more than Redis kept.
local function open_partition(partition_key, run)
  local state = redis.call('HMGET', partition_key, 'run', 'epoch', 'sequence', 'born')
  local sequence, newest_topic_sequence = tonumber(state[3] or '0'), tonumber(state[4] or '0')
  if state[1] == run then
    return tonumber(state[2]), sequence, newest_topic_sequence
  end
  -- A server may become the primary again with the run id that it had: the time makes its epochs differ.
  local epoch = (tonumber(string.sub(run, 1, 8), 16) + milliseconds()) % 4294967296
  if epoch == tonumber(state[2] or '-1') then
    epoch = (epoch + 1) % 4294967296
  end
  redis.call('HSET', partition_key, 'run', run, 'epoch', epoch)
  return epoch, sequence, newest_topic_sequence
end

-- Format an integer. Lua would write 1e15. (%d is exact, and four times as fast as %.0f.)
local function int(number)
  return string.format('%d', number)
end

-- The message for a log's channel: the entry, if it is short, as most are; else its sequence, so that it is read.
local NOTIFIED_BYTES = 32000
local function notification(epoch, newest_topic_sequence, sequence, header, data)
  if #data > NOTIFIED_BYTES then
    return int(sequence)
  end
  return table.concat({int(epoch), ' ', int(newest_topic_sequence), ' ', header, '\n', data})
end

-- Return whether an owner may write: its fencing token is the newest, and the epoch it knows is the current one.
local function owns(partition_key, run, fence, epoch)
  return redis.call('HGET', partition_key, 'fence') == fence and open_partition(partition_key, run) == tonumber(epoch)
end

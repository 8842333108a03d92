-- Put before every script that writes.

local function milliseconds()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- A primary with another run id begins a new epoch: what processes remember may be ahead of what it kept.
-- Returns epoch, sequence, and the sequence of the first event of the topic that was born last.
local function open_partition(key, run)
  local state = redis.call('HMGET', key, 'run', 'epoch', 'sequence', 'born')
  local sequence, born = tonumber(state[3] or '0'), tonumber(state[4] or '0')
  if state[1] == run then
    return tonumber(state[2]), sequence, born
  end
  -- The time tells two reigns of one server apart: the second may come within the second.
  local epoch = (tonumber(string.sub(run, 1, 8), 16) + milliseconds()) % 4294967296
  if epoch == tonumber(state[2] or '-1') then
    epoch = (epoch + 1) % 4294967296
  end
  redis.call('HSET', key, 'run', run, 'epoch', epoch)
  return epoch, sequence, born
end

-- Integers as text: Lua's own form of 1e15 is not one that anybody reads back. (%d is exact, and four times %.0f.)
local function int(number)
  return string.format('%d', number)
end

-- What a wake-up says of the entry that was appended: all that a reader needs who has everything before it, where it is
-- short, as most are; else its sequence, and it is read.
local SAID_AT_MOST = 32000
local function said(epoch, born, sequence, header, data)
  if #data > SAID_AT_MOST then
    return int(sequence)
  end
  return table.concat({int(epoch), ' ', int(born), ' ', header, '\n', data})
end

-- Tell whether an owner may still write what it knows: it has the newest fence, and knows of no later life of Redis
-- than this one.
local function owns(key, run, fence, epoch)
  return redis.call('HGET', key, 'fence') == fence and open_partition(key, run) == tonumber(epoch)
end
